"""What frequent operators make of fake tensors, by the sizes of their operands alone.

Each predicts what the fake mode would answer: size, strides, type, device, and for operators that write in
place or have nothing to do the very tensor they were given. Where that takes more than the sizes of
contiguous tensors of one type, the answer is None, and the fake mode is asked.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._mode_utils import no_dispatch

from secateur.capture.fakes import faked
from secateur.capture.strides import Sizes, is_dense, is_viewable, strides_of

_ATEN = torch.ops.aten

_ARITHMETIC = {
    getattr(getattr(_ATEN, name), overload)
    for name, overload in (
        *((name, "Scalar") for name in ("add", "sub", "mul", "div", "rsub")),
        *((name, "default") for name in ("abs", "clamp", "clamp_min", "cos", "elu", "erf", "exp", "gelu")),
        *((name, "default") for name in ("hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log")),
        *((name, "default") for name in ("log1p", "maximum", "minimum", "mish", "neg")),
        *((name, "default") for name in ("relu", "rsqrt", "selu", "sigmoid", "silu", "sin", "softplus")),
        *((name, "default") for name in ("sqrt", "tanh")),
        ("addcmul", "default"),
        ("pow", "Tensor_Scalar"),
    )
}
"""Element-wise operators whose result has the type of their operands, if these are of one floating type."""

_PROMOTING = {getattr(_ATEN, name).Tensor for name in ("add", "sub", "mul", "div")}
"""The same of two tensors, whose types may differ."""

_COMPARING = {
    getattr(getattr(_ATEN, name), form)
    for name in ("eq", "ne", "lt", "le", "gt", "ge")
    for form in ("Tensor", "Scalar")
}
"""Element-wise operators that tell what is true."""

_LOGICAL = {
    _ATEN.bitwise_and.Tensor,
    _ATEN.bitwise_not.default,
    _ATEN.bitwise_or.Tensor,
    _ATEN.logical_and.default,
    _ATEN.logical_not.default,
    _ATEN.logical_or.default,
    _ATEN.__and__.Tensor,
    _ATEN.__or__.Tensor,
}
"""Element-wise operators on what is true."""

_IN_PLACE = {
    getattr(getattr(_ATEN, name), overload)
    for name, overload in (
        *((name, form) for name in ("add_", "sub_", "mul_", "div_") for form in ("Tensor", "Scalar")),
        *((name, "default") for name in ("hardsigmoid_", "hardswish_", "hardtanh_", "leaky_relu_")),
        *((name, "default") for name in ("relu_", "sigmoid_", "silu_", "tanh_")),
    )
}
"""Operators that write their result into the first operand."""


def fake_of(
    leaves: Sequence[Any], *, contiguous: bool, one_type: bool = False
) -> tuple[FakeTensorMode, torch.device] | None:
    """The mode and the device of a call on fake tensors of known sizes (and parameters); else None.

    A fake tensor that knows its number (`torch.tensor(3)`) is left to the fake mode, which computes with it.

    Args:
        leaves: The operands, numbers among them.
        contiguous: Whether all tensors must be.
        one_type: Whether all tensors must have one type of numbers.
    """
    mode: FakeTensorMode | None = None
    device = dtype = None
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            continue
        if isinstance(leaf, FakeTensor):
            if leaf.constant is not None or (mode is not None and leaf.fake_mode is not mode):
                return None
            mode = leaf.fake_mode
        if device is None:
            device, dtype = leaf.device, leaf.dtype
        elif leaf.device != device or (one_type and leaf.dtype is not dtype):
            return None
        if leaf.layout is not torch.strided or leaf.is_quantized:
            return None
        if contiguous and not leaf.is_contiguous():
            return None
    return None if mode is None or device is None else (mode, device)


def made_of(
    shape: Sizes,
    tensors: Sequence[Tensor],
    *,
    contiguous: bool = True,
    one_type: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor | None:
    """A contiguous fake tensor, made of some others; else None.

    Args:
        shape: Its sizes.
        tensors: What it is made of.
        contiguous: Whether these must be.
        one_type: Whether these must have one type of numbers.
        dtype: Of its numbers; None is theirs.
    """
    known = fake_of(tensors, contiguous=contiguous, one_type=one_type)
    if known is None:
        return None
    mode, device = known
    with no_dispatch():
        made = torch.empty(tuple(shape), dtype=dtype or tensors[0].dtype, device="meta")
    return faked(mode, made, device)


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """What `cat` makes of tensors that differ in one dim alone."""
    rank = tensors[0].dim() if tensors else 0
    if not -rank <= dim < rank:
        return None
    shapes = [tuple(tensor.shape) for tensor in tensors]
    at = dim % rank
    if len({(*shape[:at], *shape[at + 1 :]) for shape in shapes}) > 1:
        return None
    size = (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])
    return made_of(size, tensors, contiguous=rank > 3)  # with less dims there is one layout


def _permuted(x: Tensor, dims: Sizes) -> Tensor | None:
    """What `permute` makes of a tensor, by a kernel that is no Python."""
    rank = x.dim()
    order = [dim % rank if -rank <= dim < rank else -1 for dim in dims]
    known = fake_of([x], contiguous=False)
    if known is None or not isinstance(x, FakeTensor) or sorted(order) != list(range(rank)):
        return None
    size, stride = ([of[dim] for dim in order] for of in (x.shape, x.stride()))
    with in_kernel_invocation_manager(known[0]):
        made = _ATEN.as_strided.default(x, size, stride, x.storage_offset())
    return faked(known[0], made, known[1])


def _reshaped(x: Tensor, shape: Sizes) -> Tensor | None:
    """What `reshape` makes of a tensor if it has to copy."""
    rest = [size for size in shape if size != -1]
    if len(shape) - len(rest) > 1 or not x.numel() or min(rest, default=1) < 1:
        return None
    missing = x.numel() // prod(rest)
    full = [missing if size == -1 else size for size in shape]
    if prod(full) != x.numel() or x.is_contiguous() or is_viewable(x, full):
        return None
    return made_of(full, [x], contiguous=False)


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """What `stack` makes of tensors of one size."""
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) != 1 or not -len(tensors[0].shape) - 1 <= dim <= len(tensors[0].shape):
        return None
    shape = [*tensors[0].shape]
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return made_of(shape, tensors)


def _combined(dtype_of: Callable[..., torch.dtype | None], *operands: Any, **options: Any) -> Tensor | None:
    """What an element-wise operator makes of tensors and numbers.

    Args:
        dtype_of: Tells the type of the result from the operands, tensors alone; None if it cannot.
        operands: Tensors and numbers.
        options: Numbers.
    """
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    if any(isinstance(value, Tensor) for value in options.values()):
        return None
    if any(isinstance(operand, complex) or _is_complex(operand) for operand in operands):
        return None
    dtype = dtype_of(*tensors)
    if dtype is None:
        return None
    shape = tensors[0].shape
    if any(tensor.shape != shape for tensor in tensors):
        try:
            shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
        except RuntimeError:
            return None
    if all(tensor.is_contiguous() for tensor in tensors):
        return made_of(shape, tensors, one_type=False, dtype=dtype)
    known = fake_of(tensors, contiguous=False, one_type=True)
    if known is None or 0 in shape:
        return None
    return laid_out_as(shape, tensors, known, dtype)


def laid_out_as(
    shape: Sizes,
    tensors: Sequence[Tensor],
    known: tuple[FakeTensorMode, torch.device],
    dtype: torch.dtype,
) -> Tensor:
    """A fake tensor with the strides that an element-wise operator gives to what it makes of others.

    Args:
        shape: Its sizes.
        tensors: What it is made of.
        known: The mode and the device (see `fake_of`).
        dtype: Of its numbers.
    """
    with no_dispatch():
        made = torch.empty_strided(shape, strides_of(shape, tensors), dtype=dtype, device="meta")
    return faked(known[0], made, known[1])


def _is_complex(operand: Any) -> bool:
    return isinstance(operand, Tensor) and operand.is_complex()


def _same_type(*tensors: Tensor) -> torch.dtype | None:
    """The type of all tensors if that is one floating type."""
    dtype = tensors[0].dtype
    return dtype if dtype.is_floating_point and all(one.dtype is dtype for one in tensors) else None


def _wider_type(*tensors: Tensor) -> torch.dtype | None:
    """The type that two tensors are brought to, one of them floating; of one tensor its own."""
    if len(tensors) == 2 and tensors[0].dtype is not tensors[1].dtype:
        with no_dispatch():
            one, two = (torch.empty([1] * one.dim(), dtype=one.dtype, device="meta") for one in tensors)
            dtype = torch.result_type(one, two)
        return dtype if dtype.is_floating_point else None
    return _same_type(*tensors)


def _truth(*tensors: Tensor) -> torch.dtype:
    """The type of what is true or not."""
    return torch.bool


def _truths(*tensors: Tensor) -> torch.dtype | None:
    """The same, of operands that are true or not."""
    return torch.bool if all(one.dtype is torch.bool for one in tensors) else None


def _chosen(condition: Tensor, one: Tensor, two: Tensor) -> Tensor | None:
    """What `where` makes of tensors."""
    if condition.dtype is not torch.bool:
        return None
    return _combined(lambda _, *both: _same_type(*both), condition, one, two)


def _filled(x: Tensor, mask: Tensor, value: Any) -> Tensor | None:
    """What `masked_fill` by a number makes of a tensor."""
    if mask.dtype is not torch.bool or isinstance(value, (complex, Tensor)):
        return None
    return _combined(lambda x, _: _same_type(x), x, mask)


def _written(x: Tensor, *operands: Any, **options: Any) -> Tensor | None:
    """The first operand, where what is written into it has its size and its floating type.

    One that was not made in this run counts what is written into it, which is the fake mode's business.
    """
    if not isinstance(x, FakeTensor) or not x.is_inference() or not x.is_floating_point():
        return None
    tensors = [x, *(operand for operand in operands if isinstance(operand, Tensor))]
    if any(tensor.shape != x.shape for tensor in tensors) or any(
        isinstance(one, complex) for one in operands
    ):
        return None
    if any(isinstance(value, (Tensor, complex)) for value in options.values()):
        return None
    if not is_dense(x):  # several of its positions may be one
        return None
    return None if fake_of(tensors, contiguous=False, one_type=True) is None else x


def _dropped(x: Tensor, p: float, train: bool) -> Tensor | None:
    """What dropout makes of a tensor: itself where nothing is dropped."""
    if not 0 <= p <= 1 or not isinstance(x, FakeTensor):
        return None
    if not train or not p:
        return x
    return made_of(x.shape, [x]) if x.numel() and x.is_floating_point() else None


def _cast(x: Tensor, dtype: torch.dtype, *options: Any, **more: Any) -> Tensor | None:
    """What `to` makes of a tensor: itself if it has the type already."""
    if any(options) or any(more.values()) or not isinstance(x, FakeTensor):
        return None
    if x.dtype is dtype:
        return x
    return None if x.dtype.is_complex or dtype.is_complex else made_of(x.shape, [x], dtype=dtype)


def _placed(
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    copy: bool = False,
    memory_format: torch.memory_format | None = None,
    **options: Any,
) -> Tensor | None:
    """What `to` makes of a tensor that is there already, of that type: itself."""
    if copy or not isinstance(x, FakeTensor) or memory_format not in (None, torch.preserve_format):
        return None
    is_there = dtype in (None, x.dtype) and layout in (None, x.layout) and device in (None, x.device)
    return x if is_there else None


def _dense(x: Tensor, *options: Any, **more: Any) -> Tensor | None:
    """A tensor whose numbers lie in a row."""
    if options or more or not isinstance(x, FakeTensor):
        return None
    return x if x.is_contiguous() else made_of(x.shape, [x], contiguous=False)


def _mean(x: Tensor, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    """What a mean over some dims makes of a tensor."""
    if dtype is not None or not dim or not x.is_floating_point():
        return None
    rank = x.dim()
    gone = {at % rank for at in dim if -rank <= at < rank}
    if len(gone) != len(dim):
        return None
    return made_of(
        [1 if at in gone else size for at, size in enumerate(x.shape) if keepdim or at not in gone], [x]
    )


PREDICTIONS: dict[Any, Callable[..., Tensor | None]] = {
    _ATEN.cat.default: _joined,
    _ATEN.contiguous.default: _dense,
    _ATEN.dropout.default: _dropped,
    _ATEN.mean.dim: _mean,
    _ATEN.permute.default: _permuted,
    _ATEN.reshape.default: _reshaped,
    _ATEN.stack.default: _stacked,
    _ATEN.to.dtype: _cast,
    _ATEN.to.dtype_layout: _placed,
    _ATEN.masked_fill.Scalar: _filled,
    _ATEN.where.self: _chosen,
    **dict.fromkeys(_ARITHMETIC, partial(_combined, _same_type)),
    **dict.fromkeys(_PROMOTING, partial(_combined, _wider_type)),
    **dict.fromkeys(_COMPARING, partial(_combined, _truth)),
    **dict.fromkeys(_LOGICAL, partial(_combined, _truths)),
    **dict.fromkeys(_IN_PLACE, _written),
}
"""What an operator makes of fake tensors; None where only the fake mode can tell."""
