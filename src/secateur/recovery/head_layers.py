"""Layers whose channels are heads: their weights head by head, and which rows judge what is learned."""

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.coupling.layers import LayerCall
from secateur.graph.node import Graph
from secateur.recovery.layers import is_complex, tensors_of
from secateur.recovery.lockstep import Pair

_FOLDS = 4
"""One batch in so many judges; of fewer batches the last share of each."""


class HeadLayers:
    """The linear layers of a model, to be changed head by head.

    Args:
        graph: The record.
        model: The model whose weights they are.
    """

    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self.graph = graph
        self.named = tensors_of(model)

    def obstacle(self, layer: LayerCall) -> str:
        """Why the weight of a layer cannot be changed; empty if it can."""
        if layer.spatial:
            return "it is a convolution"
        if not layer.is_held:
            return "its weight is computed"
        if is_complex(self.graph, layer):
            return "its numbers are complex"
        own = {layer.node.index, *(node.index for node in layer.turned)}
        held = [layer.weight, *(value for node in layer.turned for value in node.makes)]
        held += [] if layer.bias is None else [layer.bias]
        others = [node for value in held for node in self.graph.readers[value] if node.index not in own]
        return f"its weight is also used by {others[0]}" if others else ""

    def weight(self, layer: LayerCall) -> Tensor:
        """A view of a layer's weight, [outputs, inputs]."""
        weight = self.named[self.graph.names[layer.weight][0]]
        return weight.detach().T if layer.inputs_first else weight.detach()

    def bias(self, layer: LayerCall) -> Tensor | None:
        """A view of its bias; None if it has none."""
        return None if layer.bias is None else self.named[self.graph.names[layer.bias][0]].detach()

    def replace_rows(
        self, layer: LayerCall, at: Tensor, matrix: Tensor, source: "HeadLayers", of: Tensor
    ) -> None:
        """Put in place of some outputs the sums of others, by the rows of a matrix: [outputs, sources]."""
        for there, here in (
            (self.weight(layer), source.weight(layer)),
            (self.bias(layer), source.bias(layer)),
        ):
            if there is not None and here is not None:
                made = matrix.to(here.device) @ here[of.to(here.device)].to(matrix.dtype)
                there[at.to(there.device)] = made.to(there)


def judging(pairs: Sequence[Pair]) -> list[bool | None]:
    """Which batches judge what the others learn; None: the last share of each does."""
    if len(pairs) < _FOLDS:
        return [None] * len(pairs)
    return [pair.number % _FOLDS == _FOLDS - 1 for pair in pairs]


def parted(count: int) -> int | None:
    """Where the share begins that judges; None if there is too little to part."""
    return count - count // _FOLDS if count >= _FOLDS else None


def percent(missing: float, size: float) -> str:
    """The root of a share of squares, in words."""
    return f"{100 * (missing / size) ** 0.5:.3g} %" if size > 0 else "0 %"
