"""What layers make of fake tensors, by the sizes of their operands alone.

As for `predictions`: None where that takes more, and the fake mode is asked. The formula of convolution and
pooling is that of PyTorch's documentation: out = floor((in + 2 p - d (k - 1) - 1) / s) + 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch

from secateur.capture.fakes import faked
from secateur.capture.predictions import fake_of, laid_out_as, made_of
from secateur.capture.strides import Sizes, is_channels_last

_ATEN = torch.ops.aten


def _is_in_rows(x: Tensor) -> bool:
    """Whether numbers lie in a row and what is laid out alike does: of one pixel both layouts are one."""
    return x.is_contiguous() and not is_channels_last(x)


def _layout(x: Tensor) -> torch.memory_format:
    """The layout that what is made of a tensor has."""
    if not is_channels_last(x):
        return torch.contiguous_format
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def _batch_normalised(x: Tensor, *others: Any, **options: Any) -> Tensor | None:
    """What `batch_norm` makes of a tensor if the statistics and parameters fit."""
    if options or not isinstance(x, FakeTensor) or x.dim() < 2:
        return None
    channels = x.shape[1:2]
    if not all(tensor is None or tensor.shape == channels for tensor in others[:4]):
        return None
    made = made_of(x.shape, [x])
    return torch.empty_like(x, memory_format=_layout(x)) if made is None else made


def _group_normalised(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    """What `group_norm` makes of a tensor: laid out alike on a CPU, unlike by the fake mode."""
    if x.dim() < 3 or groups < 1 or x.shape[1] % groups or 0 in x.shape or not x.is_floating_point():
        return None
    given = [tensor for tensor in (weight, bias) if tensor is not None]
    known = fake_of([x, *given], contiguous=False, one_type=True)
    if known is None or any(tensor.shape != x.shape[1:2] for tensor in given):
        return None
    layout = _layout(x) if known[1].type == "cpu" else torch.contiguous_format
    with no_dispatch():
        made = torch.empty(x.shape, dtype=x.dtype, device="meta", memory_format=layout)
    return faked(known[0], made, known[1])


def _layer_normalised(
    x: Tensor, shape: Sizes, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    """What `layer_norm` makes of a tensor if the shape and the parameters fit."""
    last = tuple(shape)
    given = [tensor for tensor in (weight, bias) if tensor is not None]
    if not last or any(tuple(tensor.shape[-len(last) :]) != last for tensor in (x, *given)):
        return None
    return made_of(x.shape, [x, *given], contiguous=False)


def _scaled_by_squares(
    x: Tensor, shape: Sizes, weight: Tensor | None = None, eps: float | None = None
) -> Tensor | None:
    """What `rms_norm` makes of a tensor if the parameter fits."""
    last = tuple(shape)
    given = [x] if weight is None else [x, weight]
    if not last or not x.is_floating_point() or not _is_in_rows(x):
        return None
    fits = tuple(x.shape[-len(last) :]) == last and (weight is None or tuple(weight.shape) == last)
    return made_of(x.shape, given) if fits else None


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """What attention on a CPU makes of heads of one size: laid out as the query if nothing is dropped."""
    given = [query, key, value] if mask is None else [query, key, value, mask]
    known = fake_of(given, contiguous=False)
    if known is None or known[1].type != "cpu" or enable_gqa or not torch.backends.cuda.flash_sdp_enabled():
        return None
    if not query.is_floating_point() or len({query.dtype, key.dtype, value.dtype}) > 1:
        return None
    if not all(one.dim() == 4 and one.stride(3) == 1 and 0 not in one.shape for one in given[:3]):
        return None
    if key.shape != value.shape or (*query.shape[:2], query.shape[3]) != (*key.shape[:2], key.shape[3]):
        return None
    if mask is not None and (is_causal or not _is_mask(mask, query, key)):
        return None
    if dropout > 0:
        return made_of(query.shape, [query], contiguous=False) if dropout < 1 else None
    return laid_out_as(query.shape, [query], known, query.dtype)


def _is_mask(mask: Tensor, query: Tensor, key: Tensor) -> bool:
    """Whether a mask can be laid over all heads' positions."""
    over = (*query.shape[:3], key.shape[2])
    fits = all(size in (1, full) for size, full in zip(mask.shape[::-1], over[::-1], strict=False))
    is_typed = mask.dtype in (torch.bool, query.dtype)
    return fits and is_typed and mask.dim() in (2, 4) and not mask.requires_grad


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """What `linear` makes of a tensor if the parameters fit."""
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return made_of((*x.shape[:-1], weight.shape[0]), tensors, contiguous=False)


def _multiplied(a: Tensor, b: Tensor) -> Tensor | None:
    """What `matmul` makes of stacks of matrices of one size."""
    if a.dim() < 2 or a.dim() != b.dim() or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        return None
    return made_of((*a.shape[:-1], b.shape[-1]), [a, b], contiguous=False)


def _added_product(bias: Tensor, a: Tensor, b: Tensor, **options: Any) -> Tensor | None:
    """What `addmm` makes of a row and two matrices."""
    if not (bias.dim() == 1 and a.dim() == b.dim() == 2) or a.shape[1] != b.shape[0]:
        return None
    if bias.shape != b.shape[1:] or any(isinstance(value, complex) for value in options.values()):
        return None
    return made_of((a.shape[0], b.shape[1]), [bias, a, b], contiguous=False)


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
    return None if slid is None or 0 in x.shape else made_of((x.shape[0], weight.shape[0], *slid), tensors)


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
    return None if slid is None else made_of((*x.shape[:2], *slid), [x])


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
    return made_of((*x.shape[:2], *size), [x])


def _resized(x: Tensor, size: Sizes | None, *options: Any) -> Tensor | None:
    """What an interpolation of images makes of a batch; the last option are factors, if no size is given."""
    if x.dim() != 4 or 0 in x.shape or not x.is_floating_point() or not _is_in_rows(x):
        return None
    factors = options[-1] if options else None
    if size and factors:
        return None
    wanted = size or [int(n * by) for n, by in zip(x.shape[2:], factors or (), strict=False)]
    return None if len(wanted) != 2 or min(wanted) < 1 else made_of((*x.shape[:2], *wanted), [x])


def _looked_up(weight: Tensor, indices: Tensor, *_: Any, **options: Any) -> Tensor | None:
    """What an embedding makes of indices."""
    if weight.dim() != 2 or options or not (weight.is_contiguous() and indices.is_contiguous()):
        return None
    if indices.dtype not in (torch.int64, torch.int32) or fake_of([weight, indices], contiguous=True) is None:
        return None
    return made_of((*indices.shape, weight.shape[1]), [weight]) if isinstance(weight, FakeTensor) else None


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


LAYERS: dict[Any, Callable[..., Tensor | None]] = {
    **(
        {_ATEN._grouped_mm.default: _grouped} if hasattr(_ATEN, "_grouped_mm") else {}
    ),  # not before PyTorch 2.8
    _ATEN.adaptive_avg_pool2d.default: _pooled_to,
    _ATEN.addmm.default: _added_product,
    _ATEN.avg_pool2d.default: _averaged,
    _ATEN.batch_norm.default: _batch_normalised,
    _ATEN.bmm.default: _multiplied,
    _ATEN.conv1d.default: partial(_convolved, 3),
    _ATEN.conv2d.default: partial(_convolved, 4),
    _ATEN.conv3d.default: partial(_convolved, 5),
    _ATEN.embedding.default: _looked_up,
    _ATEN.group_norm.default: _group_normalised,
    _ATEN.layer_norm.default: _layer_normalised,
    _ATEN.linear.default: _linear,
    _ATEN.matmul.default: _multiplied,
    _ATEN.max_pool2d.default: _pooled,
    _ATEN.scaled_dot_product_attention.default: _attended,
    _ATEN.rms_norm.default: _scaled_by_squares,
    _ATEN.upsample_bilinear2d.vec: _resized,
    _ATEN.upsample_nearest2d.vec: _resized,
}
"""What a layer's operator makes of fake tensors; None where only the fake mode can tell."""
