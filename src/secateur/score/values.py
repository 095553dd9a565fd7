"""Values: where in a record the activations of a group are, after norm and activation.

A channel acts on the rest of a network through the operators that sum over it: the next convolution, the
linear layer behind a flatten, an attention. What they read is the channel after its norm and activation, and,
in a residual network, after the addition. From there the search goes back over what only moves numbers about,
pads or resamples them (pooling, flatten, the mean over all pixels), so that maps are seen at their full size.

No activations are values that no input of the model takes part in (weights that are computed), and no reader
is a statistic that the same channels are scaled by (the mean of squares in a norm written by hand).
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from secateur.coupling import Group, Groups
from secateur.coupling.rule import traits_of
from secateur.graph.axes import Axis, axes_in, resolve
from secateur.graph.keep import DimPlaces
from secateur.graph.node import Node, first_operand
from secateur.graph.trait import Trait


@dataclass(frozen=True, eq=False)
class ReadValue:
    """An activation of a group.

    Attributes:
        value: Its index in the record.
        dim: Which of its dims holds the group's channels.
        size: The size of that dim.
        places: Where each channel lies in the dim, shape (channels, places).
        has_maps: The dims are (samples, channels, height, width), in any order but for the first.
    """

    value: int
    dim: int
    size: int
    places: Tensor
    has_maps: bool


class Reading:
    """Finds the activations of groups.

    Args:
        groups: The groups of a model, with their record.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.graph = groups.graph
        self._live = self.graph.from_inputs.difference(self.graph.inputs)
        self._read: dict[Axis, list[tuple[int, int]]] = {}
        for node in self.graph.nodes:
            self._note_reads(node, groups.summed.get(node.index, frozenset()))

    def _leaves(self, value: int) -> list[set[Axis]]:
        """The axes in each dim of a value."""
        return [set(axes_in(resolve(expr))) for expr in self.groups.findings.dims[value]]

    def _note_reads(self, node: Node, summed: Collection[Axis]) -> None:
        """An axis is read where it is summed over, or where it goes in and does not come out."""
        returned = {leaf for value in node.makes for leaves in self._leaves(value) for leaf in leaves}
        for value in node.reads:
            if value not in self._live:
                continue
            for dim, leaves in enumerate(self._leaves(value)):
                for leaf in leaves:
                    if (leaf in summed or leaf not in returned) and not self._is_statistic(node, leaf):
                        self._read.setdefault(leaf, []).append((value, dim))

    def _is_statistic(self, node: Node, leaf: Axis) -> bool:
        """Whether what a node makes of one value next meets, unmixed with others, the same channels."""
        fresh, seen = [node], {node.index}
        while fresh:
            node = fresh.pop()
            if len(node.reads) > 1:
                continue  # a sum with weights, or of two activations
            for user in (user for value in node.makes for user in self.graph.readers[value]):
                others = self._live.intersection(user.reads).difference(node.makes)
                if any(leaf in leaves for value in others for leaves in self._leaves(value)):
                    return True
                if user.index not in seen:
                    seen.add(user.index)
                    fresh.append(user)
        return False

    def of(self, group: Group) -> tuple[ReadValue, ...]:
        """The activations of a group, in the order of the network; none if nothing reads it."""
        found = (self._back(group.axis, value, dim) for value, dim in self._read.get(group.axis, ()))
        return tuple(self._read_value(group.axis, *place) for place in sorted(set(found)))

    def _back(self, axis: Axis, value: int, dim: int) -> tuple[int, int]:
        """Go back over operators that move or resample."""
        while (node := self.graph.maker.get(value)) is not None:
            source = first_operand(node)
            if source is None or not self._is_passed(node, source):
                break
            holding = [
                at
                for at, expr in enumerate(self.groups.findings.dims[source])
                if any(leaf is axis for leaf in axes_in(resolve(expr)))
            ]
            if len(holding) != 1:
                break
            value, dim = source, holding[0]
        return value, dim

    def _is_passed(self, node: Node, source: int) -> bool:
        """Whether a call resamples its operand, pads it, or moves all of its numbers."""
        if self.graph.values[source].kind != "node":
            return False
        if node.op == "aten.pad":  # with minus infinity in front of a maximum, for one
            return min(node.args["pad"], default=0) >= 0
        traits = traits_of(node)
        sizes = {prod(self.graph.values[value].shape) for value in (source, *node.makes)}
        return Trait.RESAMPLES in traits or (Trait.MOVES in traits and len(sizes) == 1)

    def _read_value(self, axis: Axis, value: int, dim: int) -> ReadValue:
        dims = [resolve(expr) for expr in self.groups.findings.dims[value]]
        pixels = [expr for at, expr in enumerate(dims) if at not in (0, dim)]
        return ReadValue(
            value=value,
            dim=dim,
            size=dims[dim].size,
            places=torch.from_numpy(DimPlaces(dims[dim]).of(axis)),
            has_maps=dim > 0
            and len(pixels) == 2
            and all(leaf.structural for expr in pixels for leaf in axes_in(expr)),
        )
