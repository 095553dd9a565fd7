"""Residual blocks: which a Darknet network has, how little each says, and the proof that it became nothing.

A block is the run of layers that a `[shortcut]` closes and that only the shortcut reads: x + f(x). Taken out,
x is left. That is exact where f(x) = 0: the block's last batch norm has gamma = beta = 0 and its activation
maps 0 to 0. So a block's score is the mean |gamma| of its last batch norm.

References:
    tanluren/yolov3-channel-and-layer-pruning ranks blocks so (README, "layer pruning").
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from secateur.domains.darknet.edit import remove_layers
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional
from secateur.domains.darknet.sections.shortcut import Shortcut
from secateur.domains.darknet.sections.yolo import Yolo
from secateur.proof import Verdict
from secateur.proof.comparison import TOLERANCE
from secateur.proof.comparison import measure as compare
from secateur.proof.drawing import drawn_inputs, randomised

__all__ = ["ResidualBlock", "prove_removed", "residual_blocks"]


@dataclass(frozen=True)
class ResidualBlock:
    """A block that can go.

    Attributes:
        layers: Its layers; the last one is the shortcut, the one before it a normalised convolution.
        score: Mean |gamma| of that convolution's batch norm; lower goes first.
    """

    layers: tuple[int, ...]
    score: float

    @property
    def last(self) -> int:
        """The convolution before the shortcut."""
        return self.layers[-2]


def residual_blocks(model: Darknet) -> tuple[ResidualBlock, ...]:
    """List the residual blocks of a network.

    Args:
        model: The network.

    Returns:
        The blocks that leave their input when they are taken out, in the order of the network.

    Example:
        >>> [block.layers for block in residual_blocks(Darknet("digits"))]
        [(2, 3, 4), (6, 7, 8), (9, 10, 11), (13, 14, 15), (16, 17, 18)]
        >>> len(residual_blocks(Darknet("yolov3-tiny")))
        0
    """
    found: list[ResidualBlock] = []
    for index, layer in enumerate(model.layers):
        if not isinstance(layer, Shortcut) or not isinstance(layer.act, nn.Identity):
            continue
        sources = set(model.sources[index]) - {index - 1}
        if len(sources) != 1:
            continue
        (start,) = sources
        last = model.layers[index - 1]
        if isinstance(last, Convolutional) and last.norm is not None and _is_closed(model, start, index):
            score = float(last.norm.weight.detach().abs().double().mean())
            found.append(ResidualBlock(tuple(range(start + 1, index + 1)), score))
    return tuple(found)


def _is_closed(model: Darknet, start: int, end: int) -> bool:
    """Whether the layers between read only each other and what is before them, and nobody else reads them."""
    inside = range(start + 1, end)
    if not inside or start < 0 or any(isinstance(model.layers[index], Yolo) for index in inside):
        return False
    if any(source not in (start, *inside) for index in inside for source in model.sources[index]):
        return False
    read_outside = {source for later in model.sources[end + 1 :] for source in later}
    return read_outside.isdisjoint(inside) and _channels(model, start) == _channels(model, end - 1)


def _channels(model: Darknet, index: int) -> int | None:
    """The channels of a layer's output; None where they are not plain to see."""
    layer = model.layers[index]
    if isinstance(layer, Convolutional):
        return layer.conv.out_channels
    if isinstance(layer, nn.Upsample | Shortcut):
        return _channels(model, model.sources[index][0])
    sources = model.sources[index]
    found = [_channels(model, source) for source in sources]
    groups = getattr(layer, "groups", 1)
    return None if None in found else sum(count // groups for count in found if count is not None)


def prove_removed(
    model: Darknet, blocks: Sequence[ResidualBlock], images: Tensor, seed: int = 0
) -> tuple[Darknet, Verdict]:
    """Take blocks out and prove that what is left computes what the network without their response does.

    Args:
        model: The network; not changed.
        blocks: What goes.
        images: The size of images to prove it on (batch, channels, rows, columns).
        seed: For random images, and parameters besides the real ones.

    Returns:
        The smaller network, and the proof: float64, the response of each block's last layer set to zero in
        the reference.

    Raises:
        RequestError: What is left does not fit together.
    """
    removed = {index for block in blocks for index in block.layers}
    smaller = remove_layers(model, removed)
    inputs = drawn_inputs(images, seed, torch.float64)
    errors: list[float] = []
    for whole in (copy.deepcopy(model).double(), cast(Darknet, randomised(model, seed))):
        whole.eval()
        cut = remove_layers(whole, removed)
        for block in blocks:
            whole.layers[block.last] = _Silent(whole.layers[block.last])
        with torch.no_grad():
            pairs = zip(whole(inputs), cut(inputs), strict=True)
            errors += [compare(expected, got, channel=1).error for expected, got in pairs]
    error = max(errors)
    failure = None if error < TOLERANCE else f"the outputs differ by {error:.2g}"
    return smaller, Verdict(error, TOLERANCE, nodes=len(smaller.layers), failure=failure)


class _Silent(nn.Module):
    """A layer without a response."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: Tensor) -> Tensor:
        return torch.zeros_like(self.layer(maps))
