"""Patches: a convolution as a product of two matrices.

Every output position of a convolution is its weight times the patch of the input below it. `patches_of` shows
all patches as one strided view, so that some rows can be taken without unfolding the rest. A transposed
convolution is a convolution, with the kernel turned round, of its input with zeros between the pixels.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.coupling.layers import LayerCall, is_transposed


class Patches:
    """What a layer reads at each of its output positions.

    Args:
        named: The arguments of the call: a convolution's, or a matrix product's.
        source: Its input.

    Attributes:
        groups: Groups of the convolution; 1 for a linear layer.
        channels: Input channels of one group.
        kernel: Positions of the kernel; empty for a linear layer.
        rows: Output positions, over all samples.
    """

    def __init__(self, named: Mapping[str, Any], source: Tensor) -> None:
        self.groups = int(named.get("groups", 1))
        weight = named.get("weight")
        self.kernel: tuple[int, ...] = () if weight is None else tuple(weight.shape[2:])
        spatial = len(self.kernel)
        if spatial == 0:
            self._view = source.reshape(-1, 1, source.shape[-1])
            self._shape: tuple[int, ...] = (len(self._view),)
        else:
            batched = source if source.dim() == spatial + 2 else source.unsqueeze(0)
            self._view = _windows(named, batched, self.kernel, self.groups)
            self._shape = tuple(self._view.shape[: spatial + 1])
        self.channels = self._view.shape[len(self._shape) + 1]
        self.rows = prod(self._shape)

    def take(self, rows: Tensor, first: int, end: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Some rows of some channels.

        Args:
            rows: Indices of output positions.
            first: The first channel in each group.
            end: One beyond the last.
            dtype: The type to return.

        Returns:
            [groups, rows, (channels, kernel)].
        """
        index = torch.unravel_index(rows.to(self._view.device), self._shape)
        view = self._view.narrow(len(self._shape) + 1, first, end - first)
        taken = view[index].to(dtype)
        return taken.flatten(2).transpose(0, 1)

    def columns(self) -> Tensor:
        """All patches, each a column: [n, groups, (channels, kernel), output positions].

        Example:
            >>> named = {"weight": torch.ones(1, 1, 2), "stride": 1, "padding": 0, "dilation": 1}
            >>> Patches(named, torch.tensor([[[1.0, 2.0, 3.0]]])).columns()
            tensor([[[[1., 2.],
                      [2., 3.]]]])
        """
        places = range(1, len(self._shape))
        parted = self._view.movedim(list(places), list(range(-len(places), 0)))
        return parted.reshape(len(parted), self.groups, prod(parted.shape[2 : 3 + len(self.kernel)]), -1)


def _windows(named: Mapping[str, Any], source: Tensor, kernel: tuple[int, ...], groups: int) -> Tensor:
    """A view [n, output positions ..., groups, channels, kernel ...] of the padded input."""
    rank = len(kernel)
    stride, dilation = (_each(named[name], rank) for name in ("stride", "dilation"))
    padding = _padding(named["padding"], kernel, dilation)
    if is_transposed(named):
        more = _each(named["output_padding"], rank)
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        source = _spread(source, stride)
        padding = [(far - at[0], far - at[1] + e) for far, at, e in zip(reach, padding, more, strict=True)]
        stride = (1,) * rank
    sides = [side for pair in reversed(padding) for side in pair]
    padded = F.pad(source, sides) if any(sides) else source
    n, channels = padded.shape[:2]
    padded = padded.reshape(n, groups, channels // groups, *padded.shape[2:])
    outer, inner = padded.stride()[:3], padded.stride()[3:]
    positions = [
        (size - step * (width - 1) - 1) // jump + 1
        for size, step, width, jump in zip(padded.shape[3:], dilation, kernel, stride, strict=True)
    ]
    return padded.as_strided(
        (n, *positions, groups, channels // groups, *kernel),
        (
            outer[0],
            *(at * jump for at, jump in zip(inner, stride, strict=True)),
            *outer[1:],
            *(at * step for at, step in zip(inner, dilation, strict=True)),
        ),
    )


def _spread(source: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Put zeros between the pixels, as many as the stride leaves."""
    if all(step == 1 for step in stride):
        return source
    sizes = [(size - 1) * step + 1 for size, step in zip(source.shape[2:], stride, strict=True)]
    spread = source.new_zeros((*source.shape[:2], *sizes))
    every: Any = (..., *(slice(None, None, step) for step in stride))
    spread[every] = source
    return spread


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """One number for each spatial dim."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(number) for number in (numbers * rank if len(numbers) == 1 else numbers))


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pixels before and behind, for each spatial dim."""
    if value == "valid":
        return [(0, 0)] * len(kernel)
    if value == "same":
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [(far // 2, far - far // 2) for far in reach]
    return [(size, size) for size in _each(value, len(kernel))]


def weight_change(layer: LayerCall, found: Tensor, channels: int, kernel: tuple[int, ...]) -> Tensor:
    """Lay out what was found for the patches as the layer's weight.

    Args:
        layer: The layer.
        found: [groups, (channels, kernel), outputs of a group].
        channels: Input channels of one group.
        kernel: Positions of the kernel.

    Returns:
        In the layout of the weight, with these channels alone.
    """
    groups, _, outputs = found.shape
    if layer.spatial == 0:
        return found[0] if layer.inputs_first else found[0].T
    parted = found.reshape(groups, channels, *kernel, outputs)
    if layer.is_transposed:
        turned = parted.movedim(-1, 2).flip(list(range(3, 3 + len(kernel))))
        return turned.reshape(groups * channels, outputs, *kernel)
    return parted.movedim(-1, 1).reshape(groups * outputs, channels, *kernel)
