"""`[shortcut]`: the layer before plus one or more earlier ones.

    output[k] = before[k] + sum of source[k]        for the channels k that both have; the others stay

Source: `shortcut_cpu` of Darknet's `src/blas.c`, without its change of resolution; several `from` are
AlexeyAB's extension.
"""

import torch
from torch import Tensor, nn

from secateur.domains.darknet.activations import activation
from secateur.domains.darknet.layers import Layer, SectionPlace, kinds

__all__ = ["Shortcut"]


class Shortcut(nn.Module):
    """The sum of its inputs; the first one's channels count."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, before: Tensor, *sources: Tensor) -> Tensor:
        """Add the channels that both have."""
        for source in sources:
            shared = min(before.shape[1], source.shape[1])
            if before.shape[1] == source.shape[1]:
                before = before + source
            elif shared == before.shape[1]:
                before = before + source[:, :shared]
            else:
                before = torch.cat([before[:, :shared] + source, before[:, shared:]], 1)
        result: Tensor = self.act(before)
        return result


@kinds("shortcut")
def shortcut(place: SectionPlace) -> Layer:
    """Build `[shortcut]`."""
    place.require(weights_type="none", alpha="1", beta="1")
    sources = place.layers("from")
    for source in sources:
        shape = place.shapes[source]
        if (shape.height, shape.width) != (place.before.height, place.before.width):
            what = (
                f"rows or columns differ: layer {source} is {shape}, layer {place.index - 1} {place.before}"
            )
            raise place.error(what, "from", do="name a layer of the same resolution")
    module = Shortcut(activation(place, "linear"))
    return Layer(module, place.before, (place.index - 1, *sources))
