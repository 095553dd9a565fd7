"""What frequent operators make of fake tensors, by the sizes of their operands alone.

Each predicts what the fake mode would answer: size, strides, type, device, and for operators that write in
place or have nothing to do the very tensor they were given. Where that takes more than the sizes of
contiguous tensors of one type, the answer is None, and the fake mode is asked. The formula of convolution and
pooling is that of PyTorch's documentation: out = floor((in + 2 p - d (k - 1) - 1) / s) + 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from secateur.capture.fakes import faked
from secateur.capture.strides import Sizes, is_dense, strides_of

_ATEN = torch.ops.aten

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


def _made(shape: Sizes, tensors: Sequence[Tensor], *, contiguous: bool = True) -> Tensor | None:
    """A contiguous fake tensor, made of some of a single type; else None."""
    known = fake_of(tensors, contiguous=contiguous, one_type=True)
    if known is None:
        return None
    mode, device = known
    with no_dispatch():
        made = torch.empty(tuple(shape), dtype=tensors[0].dtype, device="meta")
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
    return _made((*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :]), tensors)


def _combined(*operands: Any, **options: Any) -> Tensor | None:
    """What element-wise arithmetic makes of floating tensors and numbers."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    if any(isinstance(value, Tensor) for value in options.values()) or not tensors[0].is_floating_point():
        return None
    shape = tensors[0].shape
    if any(tensor.shape != shape for tensor in tensors):
        try:
            shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
        except RuntimeError:
            return None
    if any(isinstance(operand, complex) for operand in operands):
        return None
    if all(tensor.is_contiguous() for tensor in tensors):
        return _made(shape, tensors)
    known = fake_of(tensors, contiguous=False, one_type=True)
    if known is None or 0 in shape:
        return None
    with no_dispatch():
        made = torch.empty_strided(shape, strides_of(shape, tensors), dtype=tensors[0].dtype, device="meta")
    return faked(known[0], made, known[1])


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
    return _made(x.shape, [x]) if x.numel() and x.is_floating_point() else None


def _cast(x: Tensor, dtype: torch.dtype, *options: Any, **more: Any) -> Tensor | None:
    """What `to` makes of a tensor that has the type already: itself."""
    return x if x.dtype is dtype and not options and not more and isinstance(x, FakeTensor) else None


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
    return x if x.is_contiguous() else _made(x.shape, [x], contiguous=False)


def _batch_normalised(x: Tensor, *others: Any, **options: Any) -> Tensor | None:
    """What `batch_norm` makes of a tensor if the statistics and parameters fit."""
    if options or not isinstance(x, FakeTensor) or x.dim() < 2:
        return None
    channels = x.shape[1:2]
    if not all(tensor is None or tensor.shape == channels for tensor in others[:4]):
        return None
    made = _made(x.shape, [x])
    return torch.empty_like(x, memory_format=suggest_memory_format(x)) if made is None else made


def _layer_normalised(
    x: Tensor, shape: Sizes, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    """What `layer_norm` makes of a tensor if the shape and the parameters fit."""
    last = tuple(shape)
    given = [tensor for tensor in (weight, bias) if tensor is not None]
    if not last or any(tuple(tensor.shape[-len(last) :]) != last for tensor in (x, *given)):
        return None
    return _made(x.shape, [x, *given], contiguous=False)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """What `linear` makes of a tensor if the parameters fit."""
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return _made((*x.shape[:-1], weight.shape[0]), tensors, contiguous=False)


def _multiplied(a: Tensor, b: Tensor) -> Tensor | None:
    """What `matmul` makes of stacks of matrices of one size."""
    if a.dim() < 2 or a.dim() != b.dim() or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        return None
    return _made((*a.shape[:-1], b.shape[-1]), [a, b])


def _added_product(bias: Tensor, a: Tensor, b: Tensor, **options: Any) -> Tensor | None:
    """What `addmm` makes of a row and two matrices."""
    if not (bias.dim() == 1 and a.dim() == b.dim() == 2) or a.shape[1] != b.shape[0]:
        return None
    if bias.shape != b.shape[1:] or any(isinstance(value, complex) for value in options.values()):
        return None
    return _made((a.shape[0], b.shape[1]), [bias, a, b], contiguous=False)


def _convolved(
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1,),
    padding: Any = (0,),
    dilation: Sizes = (1,),
    groups: int = 1,
) -> Tensor | None:
    """What a convolution makes of a batch with so many dims if the parameters fit."""
    if isinstance(padding, str) or not x.dim() == weight.dim() == rank or groups < 1:
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    slid = _slid(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return None if slid is None or 0 in x.shape else _made((x.shape[0], weight.shape[0], *slid), tensors)


def _slid(sizes: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int] | None:
    """The sizes of what a window is slid over; None if it does not fit."""
    found = []
    for at, size in enumerate(sizes):
        k, s, p, d = (
            given[0] if len(given) == 1 else given[at] for given in (kernel, stride, padding, dilation)
        )
        left = size + 2 * p - d * (k - 1) - 1
        if left < 0 or s < 1 or min(p, k - 1, d - 1) < 0:
            return None
        found.append(left // s + 1)
    return found


def _pooled(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil_mode: bool = False,
) -> Tensor | None:
    """What a maximum over windows of images makes of a batch."""
    if ceil_mode or x.dim() != 4 or 0 in x.shape or not x.is_floating_point():
        return None
    if any(2 * p > k for p, k in zip(padding, kernel, strict=False)):
        return None
    slid = _slid(x.shape[2:], kernel, stride or kernel, padding, dilation)
    return None if slid is None else _made((*x.shape[:2], *slid), [x])


def _averaged(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil_mode: bool = False,
    *_: Any,
) -> Tensor | None:
    """What a mean over windows of images makes of a batch."""
    return _pooled(x, kernel, stride, padding, (1,), ceil_mode)


def _pooled_to(x: Tensor, size: Sizes) -> Tensor | None:
    """What a mean over so many parts of images makes of a batch."""
    if x.dim() != 4 or len(size) != 2 or min(size) < 1 or 0 in x.shape or not x.is_floating_point():
        return None
    return _made((*x.shape[:2], *size), [x])


def _mean(x: Tensor, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    """What a mean over some dims makes of a tensor."""
    if dtype is not None or not dim or not x.is_floating_point():
        return None
    rank = x.dim()
    gone = {at % rank for at in dim if -rank <= at < rank}
    if len(gone) != len(dim):
        return None
    return _made(
        [1 if at in gone else size for at, size in enumerate(x.shape) if keepdim or at not in gone], [x]
    )


def _looked_up(weight: Tensor, indices: Tensor, *_: Any, **options: Any) -> Tensor | None:
    """What an embedding makes of indices."""
    if weight.dim() != 2 or options or not (weight.is_contiguous() and indices.is_contiguous()):
        return None
    if indices.dtype not in (torch.int64, torch.int32) or fake_of([weight, indices], contiguous=True) is None:
        return None
    return _made((*indices.shape, weight.shape[1]), [weight]) if isinstance(weight, FakeTensor) else None


def _grouped(x: Tensor, weight: Tensor, offs: Tensor | None = None, **options: Any) -> Tensor | None:
    """What `_grouped_mm` makes of rows and a weight of each group, in float32.

    The fake mode knows the operator in the types of a GPU only, CPUs have it in float32, too. Rows are laid
    out at multiples of 16 bytes.
    """
    fits = x.dim() == 2 and weight.dim() == 3 and x.shape[1] == weight.shape[1]
    known = fake_of([x, weight], contiguous=False)
    if not fits or offs is None or options or known is None or {x.dtype, weight.dtype} != {torch.float32}:
        return None
    size, stride = (x.shape[0], weight.shape[2]), (-(-weight.shape[2] // 4) * 4, 1)
    with no_dispatch():
        made = torch.empty_strided(size, stride, dtype=torch.float32, device="meta")
    return faked(known[0], made, known[1])


PREDICTIONS: dict[Any, Callable[..., Tensor | None]] = {
    **(
        {_ATEN._grouped_mm.default: _grouped} if hasattr(_ATEN, "_grouped_mm") else {}
    ),  # not before PyTorch 2.8
    _ATEN.adaptive_avg_pool2d.default: _pooled_to,
    _ATEN.addmm.default: _added_product,
    _ATEN.avg_pool2d.default: _averaged,
    _ATEN.batch_norm.default: _batch_normalised,
    _ATEN.bmm.default: _multiplied,
    _ATEN.cat.default: _joined,
    _ATEN.contiguous.default: _dense,
    _ATEN.conv1d.default: partial(_convolved, 3),
    _ATEN.conv2d.default: partial(_convolved, 4),
    _ATEN.conv3d.default: partial(_convolved, 5),
    _ATEN.dropout.default: _dropped,
    _ATEN.embedding.default: _looked_up,
    _ATEN.layer_norm.default: _layer_normalised,
    _ATEN.linear.default: _linear,
    _ATEN.matmul.default: _multiplied,
    _ATEN.max_pool2d.default: _pooled,
    _ATEN.mean.dim: _mean,
    _ATEN.to.dtype: _cast,
    _ATEN.to.dtype_layout: _placed,
    **dict.fromkeys(_ARITHMETIC, _combined),
    **dict.fromkeys(_IN_PLACE, _written),
}
"""What an operator makes of fake tensors; None where only the fake mode can tell."""
