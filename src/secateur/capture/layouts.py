"""Memory layouts that are safe to differentiate in.

Convolutions are 30 to 60 % faster in channels_last on a CPU. But there the backward pass of a strided 1x1
convolution with fewer than seven input channels writes past its memory, on x86 processors with AVX2 and
without AVX-512 (torch 2.14.1, oneDNN): the process dies. Cut networks often hold such shortcuts. A model
with such a layer is differentiated in contiguous memory on every machine, so that a run is the same
everywhere.
"""

import torch
from torch import Tensor, nn
from torch._prims_common import make_contiguous_strides_for

_FEWEST_SAFE_INPUTS = 7


def unsafe_in_channels_last(model: nn.Module) -> tuple[str, ...]:
    """Name the weights that may not be differentiated in channels_last.

    Those of 1x1 convolutions with fewer than seven input channels, unless their module has stride 1.

    Args:
        model: Any module; not changed.

    Returns:
        Qualified names of parameters; empty where channels_last is safe.

    Example:
        >>> unsafe_in_channels_last(nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(4, 8, 1, stride=2)))
        ('1.weight',)
    """
    return tuple(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, held in module.named_parameters(recurse=False)
        if _is_at_risk(module, held)
    )


def _is_at_risk(module: nn.Module, weight: Tensor) -> bool:
    """Whether a weight is 1x1 and narrow, and may run with a stride; in unknown modules either dim counts."""
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (1, 1):
        return False
    if isinstance(module, nn.Conv2d):
        return weight.shape[1] < _FEWEST_SAFE_INPUTS and set(module.stride) != {1}
    return min(weight.shape[:2]) < _FEWEST_SAFE_INPUTS


def memory_format(model: nn.Module, *, channels_last: bool) -> torch.memory_format:
    """The memory format to train a model in.

    Args:
        model: Any module; not changed.
        channels_last: Ask for channels_last; a model with a layer that is not safe in it is contiguous.

    Example:
        >>> memory_format(nn.Conv2d(3, 8, 1, stride=2), channels_last=True)
        torch.contiguous_format
    """
    if channels_last and not unsafe_in_channels_last(model):
        return torch.channels_last
    return torch.contiguous_format


def layout_note(model: nn.Module, *, channels_last: bool | None = None) -> str:
    """Say which layers keep a model out of channels_last while it is differentiated.

    Args:
        model: Any module; not changed.
        channels_last: Whether that was asked for; None asks whether a tensor of the model lies so.

    Returns:
        One line for the notes of a run; empty where nothing was changed.

    Example:
        >>> print(layout_note(nn.Sequential(nn.Conv2d(3, 8, 1, stride=2)), channels_last=True))
        differentiated in contiguous memory: in channels_last 1 layer is not safe (0)
    """
    unsafe = unsafe_in_channels_last(model)
    if channels_last is None:
        channels_last = any(is_channels_last(parameter) for parameter in model.parameters())
    if not unsafe or not channels_last:
        return ""
    names = [name.rpartition(".")[0] or name for name in unsafe]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    count = "1 layer is" if len(names) == 1 else f"{len(names)} layers are"
    return f"differentiated in contiguous memory: in channels_last {count} not safe ({shown})"


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory with its channels last, and not otherwise too."""
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def in_layout(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """A tensor in a memory format, down to strides that its shape leaves open.

    A kernel of one input channel is contiguous and channels_last at once; `contiguous` leaves its strides,
    and PyTorch goes by these: one such kernel turns a whole network to channels_last.

    Args:
        tensor: Any tensor; not changed.
        layout: The memory format.

    Example:
        >>> kernel = torch.zeros(2, 1, 3, 3).to(memory_format=torch.channels_last)
        >>> kernel.contiguous().stride(), in_layout(kernel, torch.contiguous_format).stride()
        ((9, 1, 3, 1), (9, 9, 3, 1))
    """
    if layout == torch.contiguous_format and tensor.stride() != make_contiguous_strides_for(tensor.shape):
        return tensor.clone(memory_format=layout)
    return tensor.contiguous(memory_format=layout)
