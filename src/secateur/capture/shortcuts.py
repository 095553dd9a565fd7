"""Shorter ways to the results of the frequent operators on fake tensors.

The fake mode hashes every call for its cache, prepares a new call of a composite operator twice, and
decomposes norms into a dozen operators: together two thirds of the time of a capture. A fake tensor is a meta
tensor inside, so that the kernels for meta tensors tell the same sizes and strides at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

_ATEN = torch.ops.aten
_VIEWS = {
    getattr(getattr(_ATEN, name), overload)
    for name, overload in (
        ("chunk", "default"),
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

_ARITHMETIC = {
    getattr(getattr(_ATEN, name), overload)
    for name, overload in (
        *((name, form) for name in ("add", "sub", "mul", "div") for form in ("Tensor", "Scalar")),
        *((name, "default") for name in ("exp", "gelu", "hardsigmoid", "hardswish", "hardtanh")),
        *((name, "default") for name in ("leaky_relu", "mish", "neg", "relu", "rsqrt", "sigmoid")),
        *((name, "default") for name in ("silu", "sqrt", "tanh")),
        ("addcmul", "default"),
        ("pow", "Tensor_Scalar"),
    )
}
"""Element-wise operators whose result has the type of their operands, if these are of one floating type."""

_SMALL = 64
"""Elements up to which a constant is computed with its numbers."""


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator; the frequent ones on fake tensors by a shorter way to the same result."""
    if func is _ATEN.detach_.default and not isinstance(args[0], FakeTensor):
        # torch.tensor(..., device="meta") detaches what it made before the fake mode has seen it
        with no_dispatch():
            return func(*args)
    predict = _PREDICTIONS.get(func)
    if predict is not None:
        made = predict(*args, **kwargs)
        return func(*args, **kwargs) if made is None else made
    if func in _VIEWS or func in _KERNELS:
        return _on_meta(func, args, kwargs)
    return func(*args, **kwargs)


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
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(
        _is_real(tensor) and tensor.numel() <= _SMALL and _storage(tensor) not in written
        for tensor in tensors
    )


def storages_written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> set[int]:
    """Real tensors that a call on fake ones would have written: what they hold is not what the model has."""
    if not func._schema.is_mutable:
        return set()
    return {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if _is_real(leaf)}


def _is_real(leaf: Any) -> bool:
    """Whether this is a plain tensor with numbers; parameters follow their axis and are never constants."""
    return type(leaf) is Tensor and leaf.layout == torch.strided and not leaf.is_meta


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _on_meta(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator by its kernel for meta tensors where that tells all, else by the fake mode."""
    is_view = func in _VIEWS
    known = _fake_device(tree_leaves((args, kwargs)), is_contiguous=not is_view)
    if known is None:
        return func(*args, **kwargs)
    mode, device = known
    if is_view:  # the fake tensor itself, so that the result shares its storage
        with in_kernel_invocation_manager(mode):
            result = func(*args, **kwargs)
    else:
        with no_dispatch():
            result = func(*tree_map_only(Tensor, _without_numbers, tuple(args)), **kwargs)

    def wrap(made: Tensor) -> Tensor:
        return made if isinstance(made, FakeTensor) else FakeTensor(mode, made, device)

    return tree_map_only(Tensor, wrap, result)


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """What `cat` makes of tensors that differ in one dim alone."""
    rank = tensors[0].dim() if tensors else 0
    if not -rank <= dim < rank:
        return None
    shapes = [tuple(tensor.shape) for tensor in tensors]
    at = dim % rank
    if len({(*shape[:at], *shape[at + 1 :]) for shape in shapes}) > 1:
        return None
    shape = (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])
    return _contiguous(shape, tensors, of_contiguous=True)


def _combined(*operands: Any, **options: Any) -> Tensor | None:
    """What element-wise arithmetic makes of floating tensors and numbers."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    if any(isinstance(value, Tensor) for value in options.values()) or not tensors[0].is_floating_point():
        return None
    shapes = {tuple(tensor.shape) for tensor in tensors}
    try:
        shape = shapes.pop() if len(shapes) == 1 else tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None
    has_complex = any(isinstance(operand, complex) for operand in operands)
    return None if has_complex else _contiguous(shape, tensors, of_contiguous=True)


def _batch_normalised(x: Tensor, *others: Any, **options: Any) -> Tensor | None:
    """What `batch_norm` makes of a tensor if the statistics and parameters fit."""
    if options or not isinstance(x, FakeTensor) or x.dim() < 2:
        return None
    channels = x.shape[1:2]
    fits = all(tensor is None or tensor.shape == channels for tensor in others[:4])
    return torch.empty_like(x, memory_format=suggest_memory_format(x)) if fits else None


def _layer_normalised(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    """What `layer_norm` makes of a tensor if the shape and the parameters fit."""
    last = tuple(shape)
    given = [tensor for tensor in (weight, bias) if tensor is not None]
    if not last or any(tuple(tensor.shape[-len(last) :]) != last for tensor in (x, *given)):
        return None
    return _contiguous(x.shape, [x, *given])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """What `linear` makes of a tensor if the parameters fit."""
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    shape = (*x.shape[:-1], weight.shape[0])
    return _contiguous(shape, [x, weight] if bias is None else [x, weight, bias])


def _grouped(x: Tensor, weight: Tensor, offs: Tensor | None = None, **options: Any) -> Tensor | None:
    """What `_grouped_mm` makes of rows and a weight of each group, in float32.

    The fake mode knows the operator in the types of a GPU only, CPUs have it in float32, too. Rows are laid
    out at multiples of 16 bytes.
    """
    fits = x.dim() == 2 and weight.dim() == 3 and x.shape[1] == weight.shape[1]
    known = _fake_device([x, weight], is_contiguous=False)
    if not fits or offs is None or options or known is None or {x.dtype, weight.dtype} != {torch.float32}:
        return None
    size, stride = (x.shape[0], weight.shape[2]), (-(-weight.shape[2] // 4) * 4, 1)
    with no_dispatch():
        made = torch.empty_strided(size, stride, dtype=torch.float32, device="meta")
    return FakeTensor(known[0], made, known[1])


_PREDICTIONS: dict[Any, Callable[..., Tensor | None]] = {
    **(
        {_ATEN._grouped_mm.default: _grouped} if hasattr(_ATEN, "_grouped_mm") else {}
    ),  # not before PyTorch 2.8
    _ATEN.batch_norm.default: _batch_normalised,
    _ATEN.cat.default: _joined,
    _ATEN.layer_norm.default: _layer_normalised,
    _ATEN.linear.default: _linear,
    **dict.fromkeys(_ARITHMETIC, _combined),
}
"""What an operator makes of fake tensors; None where only the fake mode can tell."""


def _contiguous(
    shape: Sequence[int], tensors: Sequence[Tensor], *, of_contiguous: bool = False
) -> Tensor | None:
    """A contiguous fake tensor, made of some of a single type; else None."""
    known = _fake_device(tensors, of_contiguous)
    if known is None or len({tensor.dtype for tensor in tensors}) > 1:
        return None
    mode, device = known
    with no_dispatch():
        made = torch.empty(shape, dtype=tensors[0].dtype, device="meta")
    return FakeTensor(mode, made, device)


def _fake_device(leaves: Sequence[Any], is_contiguous: bool) -> tuple[FakeTensorMode, torch.device] | None:
    """The mode and the device of a call on fake tensors of known sizes (and parameters); else None.

    A fake tensor that knows its number (`torch.tensor(3)`) is left to the fake mode, which computes with it.
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
    modes = {tensor.fake_mode for tensor in fakes}
    devices = {tensor.device for tensor in tensors}
    if len(modes) != 1 or len(devices) != 1 or any(isinstance(leaf, torch.SymInt) for leaf in leaves):
        return None
    if any(fake.constant is not None for fake in fakes):
        return None
    if any(tensor.layout != torch.strided or tensor.is_quantized for tensor in tensors):
        return None
    if any(type(size) is not int for tensor in tensors for size in tensor.shape):
        return None
    if is_contiguous and not all(tensor.is_contiguous() for tensor in tensors):
        return None
    return modes.pop(), devices.pop()


def _without_numbers(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
