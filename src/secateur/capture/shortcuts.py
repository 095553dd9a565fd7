"""Shorter ways to the results of the frequent operators on fake tensors.

The fake mode hashes every call for its cache, prepares a new call of a composite operator twice, and
decomposes norms into a dozen operators: together two thirds of the time of a capture. A fake tensor is a meta
tensor inside, so that the kernels for meta tensors tell the same sizes and strides at once.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from secateur.capture.answers import Question, is_answerable
from secateur.capture.fakes import faked
from secateur.capture.layers import LAYERS
from secateur.capture.operators import is_mutable, operands
from secateur.capture.predictions import PREDICTIONS, fake_of

_ATEN = torch.ops.aten
_VIEWS = {
    getattr(getattr(_ATEN, name), overload)
    for name, overload in (
        ("alias", "default"),
        ("chunk", "default"),
        ("detach", "default"),
        ("expand", "default"),
        ("expand_as", "default"),
        ("flatten", "using_ints"),
        ("permute", "default"),
        ("reshape", "default"),
        ("select", "int"),
        ("slice", "Tensor"),
        ("split", "Tensor"),
        ("split_with_sizes", "default"),
        ("squeeze", "dim"),
        ("tensor_split", "indices"),
        ("transpose", "int"),
        ("unbind", "int"),
        ("unflatten", "int"),
        ("unsqueeze", "default"),
        ("view", "default"),
    )
}
"""Operators that show the storage of their argument, or a copy of it."""

_KERNELS = {
    overload.default
    for overload in (_ATEN.bmm, _ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d, _ATEN.einsum, _ATEN.matmul)
} | {_ATEN.softmax.int}
"""Operators that make a new tensor, laid out on meta tensors as on any device if all are contiguous."""

_SAME = {
    _ATEN.batch_norm.default,
    _ATEN.contiguous.default,
    _ATEN.dropout.default,
    _ATEN.to.dtype,
    _ATEN.to.dtype_layout,
}
"""Operators that mostly hand back what they are given, or are given buffers, which are no fake tensors."""

_PREDICTIONS = {**PREDICTIONS, **LAYERS}

_DEVICE = torch.ops.prim.device.default
"""What PyTorch asks of a fake tensor wherever C++ needs its device."""

_SMALL = 64
"""Elements up to which a constant is computed with its numbers."""


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator; the frequent ones on fake tensors by a shorter way to the same result."""
    if func is _ATEN.detach_.default and not isinstance(args[0], FakeTensor):
        # torch.tensor(..., device="meta") detaches what it made before the fake mode has seen it
        with no_dispatch():
            return func(*args)
    if func is _DEVICE and isinstance(args[0], FakeTensor):
        return args[0].device
    if not _is_answerable(func):
        return _ask(func, args, kwargs)
    question = Question(func, args, kwargs)
    made = question.answer()
    if made is None:
        made = _ask(func, args, kwargs)
        question.keep(func, made)
    return made


@cache
def _is_answerable(func: Any) -> bool:
    return func not in _VIEWS and func not in _SAME and is_answerable(func)


def _ask(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Find what an operator makes of fake tensors."""
    predict = _PREDICTIONS.get(func)
    is_known = predict is not None or func in _VIEWS or func in _KERNELS
    leaves = operands(func, args, kwargs) if is_known else []
    if not is_known or any(map(_has_symbols, leaves)):
        return func(*args, **kwargs)
    if predict is not None:
        made = predict(*args, **kwargs)
        if made is not None:
            return made
    return _on_meta(func, args, kwargs) if func in _VIEWS or func in _KERNELS else func(*args, **kwargs)


def _has_symbols(leaf: Any) -> bool:
    """Whether something is no plain number, or a tensor whose sizes are not."""
    if isinstance(leaf, Tensor):
        return isinstance(leaf, FakeTensor) and leaf._has_symbolic_sizes_strides
    return isinstance(leaf, torch.SymInt)


def is_constant(func: Any, args: Sequence[Any], kwargs: dict[str, Any], written: set[int]) -> bool:
    """Whether a call reads small real tensors alone: strides, anchors, counters that a model holds.

    Args:
        func: The operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        written: Storages of real tensors whose numbers no longer count (see `storages_written`).
    """
    if func is _ATEN.lift_fresh.default:  # torch.tensor(...): the fake mode remembers its numbers
        return False
    tensors = [leaf for leaf in operands(func, args, kwargs) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(
        _is_real(tensor) and tensor.numel() <= _SMALL and _storage(tensor) not in written
        for tensor in tensors
    )


def storages_written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> set[int]:
    """Real tensors that a call on fake ones would have written: what they hold is not what the model has."""
    if not is_mutable(func):
        return set()
    return {_storage(leaf) for leaf in operands(func, args, kwargs) if _is_real(leaf)}


def _is_real(leaf: Any) -> bool:
    """Whether this is a plain tensor with numbers; parameters follow their axis and are never constants."""
    return type(leaf) is Tensor and leaf.layout == torch.strided and not leaf.is_meta


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _on_meta(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator by its kernel for meta tensors where that tells all, else by the fake mode."""
    is_view = func in _VIEWS
    known = fake_of(operands(func, args, kwargs), contiguous=not is_view)
    if known is None:
        return func(*args, **kwargs)
    mode, device = known
    if is_view:  # the fake tensor itself, so that the result shares its storage
        with in_kernel_invocation_manager(mode):
            result = func(*args, **kwargs)
    else:
        with no_dispatch():
            result = func(*tree_map_only(Tensor, _without_numbers, tuple(args)), **kwargs)
    if isinstance(result, Tensor):
        return result if isinstance(result, FakeTensor) else faked(mode, result, device)
    wrapped = [made if isinstance(made, FakeTensor) else faked(mode, made, device) for made in result]
    return type(result)(wrapped)


def _without_numbers(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
