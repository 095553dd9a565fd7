"""Memory layouts that are safe to differentiate in.

Convolutions are 30 to 60 % faster in channels_last on a CPU. But there the backward pass of a strided 1x1
convolution with fewer than seven input channels writes past its memory, on x86 processors with AVX2 and
without AVX-512 (torch 2.14.1, oneDNN): the process dies. Cut networks often hold such shortcuts. A model
with such a layer is differentiated in contiguous memory on every machine, so that a run is the same
everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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


@contextmanager
def safe_backward(model: nn.Module) -> Iterator[None]:
    """Differentiate a model where it lies, by kernels that are safe in every memory format.

    Args:
        model: Any module; not changed.
    """
    if not unsafe_in_channels_last(model):
        yield
        return
    was_enabled = torch.backends.mkldnn.set_flags(False)[0]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(was_enabled)
