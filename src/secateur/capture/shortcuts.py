"""Shorter ways to the results of a few frequent operators on fake tensors.

The fake mode decomposes batch norm into a dozen operators, and prepares every new call of a composite one
twice for its cache: together two thirds of the time of a capture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

_ATEN = torch.ops.aten
_META_KERNELS = {overload.default for overload in (_ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d, _ATEN.linear)}
"""Operators whose meta kernel alone tells the shape; frequent and slow on fake tensors."""

_SMALL = 64
"""Elements up to which a constant is computed with its numbers."""


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator; a few frequent ones on fake tensors by a shorter way to the same result.

    The fake mode decomposes batch norm into a dozen operators, and prepares every new call of a composite
    one twice for its cache: together two thirds of the time of a capture.
    """
    if func is _ATEN.detach_.default and not isinstance(args[0], FakeTensor):
        # torch.tensor(..., device="meta") detaches what it made before the fake mode has seen it
        with no_dispatch():
            return func(*args)
    if func is _ATEN.cat.default and (joined := _joined(*args, **kwargs)) is not None:
        return joined
    if func is _ATEN.batch_norm.default and isinstance(args[0], FakeTensor) and args[0].dim() > 1:
        channels = args[0].shape[1:2]
        if all(tensor is None or tensor.shape == channels for tensor in args[1:5]):
            return torch.empty_like(args[0])
    device = _fake_device(tree_leaves(args)) if func in _META_KERNELS else None
    if device is None:
        return func(*args, **kwargs)
    with no_dispatch():
        meta = func(*tree_map_only(Tensor, _on_meta, args), **kwargs)
    return torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype, device=device)


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


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """What `cat` makes of contiguous fake tensors that differ in one dim alone; else None.

    The meta kernel is written in Python and takes the time of a convolution for every tensor that is joined.
    """
    rank = tensors[0].dim() if tensors else 0
    if not -rank <= dim < rank or len({tensor.dtype for tensor in tensors}) > 1:
        return None
    shapes = [tuple(tensor.shape) for tensor in tensors]
    at = dim % rank
    if len({(*shape[:at], *shape[at + 1 :]) for shape in shapes}) > 1:
        return None
    device = _fake_device(tensors)
    if device is None:
        return None
    size = sum(shape[at] for shape in shapes)
    return torch.empty((*shapes[0][:at], size, *shapes[0][at + 1 :]), dtype=tensors[0].dtype, device=device)


def _fake_device(leaves: Sequence[Any]) -> torch.device | None:
    """The device of a call on contiguous fake tensors of known sizes (and parameters); else None.

    For other layouts the kernel of the device chooses the layout of the result; the fake mode knows.
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    modes = {tensor.fake_mode for tensor in tensors if isinstance(tensor, FakeTensor)}
    devices = {tensor.device for tensor in tensors}
    if len(modes) != 1 or len(devices) != 1:
        return None
    has_symbols = any(type(size) is not int for tensor in tensors for size in tensor.shape)
    if has_symbols or not all(tensor.is_contiguous() for tensor in tensors):
        return None
    return devices.pop()


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
