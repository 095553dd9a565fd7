"""The residual path: how the stream that goes into a block comes out of it again.

    y = act(x + f(x))        path: x, add, act

A path goes from a value to another through additions, through operators that hand values on as they are
(dropout in eval mode, views, a division by 1), and through normalisations and activations. Of several paths
the one with the fewest of the latter counts: what lies on it stays when the branches f contribute nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from secateur.coupling.rule import rule_of, traits_of
from secateur.graph.node import Graph, Node, Ref, first_operand
from secateur.graph.trait import Trait


@dataclass(frozen=True)
class ResidualPath:
    """The nodes between the stream that goes into a block and the one that comes out.

    Attributes:
        adds: By index of each adding node: the argument that is the stream.
        changes: The same for normalisations and activations that dropping the block removes from the stream.
        casts: The same for what brings the stream to another precision; its rounding goes with the block.
    """

    adds: Mapping[int, str]
    changes: Mapping[int, str]
    casts: Mapping[int, str]


def _streams(node: Node) -> Iterator[tuple[str, int, str]]:
    """The arguments of a node that may be a stream: name, value, and what the node does to it."""
    traits = traits_of(node)
    if _is_neutral(node):
        yield from _first(node, "hand on")
    elif Trait.ADDS in traits:
        yield from ((name, node.args[name].value, "add") for name in _addends(node))
    elif Trait.MOVES in traits and traits & (Trait.VIEW | Trait.ROW_MAJOR):
        yield from _first(node, "hand on")  # where else a number then is, the axes of its dims tell
    elif traits & (Trait.NORM | Trait.ACTIVATION):
        yield from _first(node, "change")


_NEUTRAL = {"aten.add": 0, "aten.sub": 0, "aten.mul": 1, "aten.div": 1}
"""The number with which an operator changes nothing: `(x + f(x)) / scale` often has a scale of 1."""


def _is_neutral(node: Node) -> bool:
    """Whether a number is added, or multiplied with, that changes nothing."""
    number = _NEUTRAL.get(node.op.removesuffix("_"))
    other = node.args.get("other")
    return number is not None and isinstance(other, (int, float)) and other == number


def _addends(node: Node) -> list[str]:
    """The arguments of an addition that may be a stream; none if a number is added, which is no branch."""
    operands = [name for name, held in node.args.items() if isinstance(held, Ref)]
    if len(operands) < 2:
        return []
    return operands if Trait.SUMS in traits_of(node) and node.args.get("alpha", 1) == 1 else operands[:1]


def _first(node: Node, what: str) -> Iterator[tuple[str, int, str]]:
    value = first_operand(node)
    if value is not None:
        yield node.argument_of(value), value, what


class Streams:
    """Finds residual paths in a record.

    Args:
        graph: The record.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def path(self, nodes: Sequence[Node], start: int, end: int) -> ResidualPath | None:
        """Find the residual path from one value to another.

        One pass over the nodes: for each value, the way from the start with the fewest changes.

        Args:
            nodes: The nodes to go through, in order.
            start: The value at the beginning.
            end: The value at the end.

        Returns:
            The path; None if there is none with an addition on it.
        """
        best: dict[int, tuple[int, int]] = {start: (0, 0)}
        came: dict[int, tuple[Node, str, int, str]] = {}
        for node in nodes:
            output = node.outputs[0] if len(node.outputs) == 1 else None
            if output is None:
                continue
            for name, value, what in _streams(node):
                if value not in best or self._numel(value) != self._numel(output.value):
                    continue
                changes, length = best[value]
                cost = (changes + (what == "change"), length + 1)
                if output.value not in best or cost < best[output.value]:
                    best[output.value] = cost
                    came[output.value] = (node, name, value, what)
        return self._walk_back(came, start, end)

    def _walk_back(
        self, came: Mapping[int, tuple[Node, str, int, str]], start: int, end: int
    ) -> ResidualPath | None:
        adds: dict[int, str] = {}
        changes: dict[int, str] = {}
        casts: dict[int, str] = {}
        value = end
        while value != start:
            if value not in came:
                return None
            after = self.graph.values[value].dtype
            node, name, value, what = came[value]
            if what == "hand on" and self.graph.values[value].dtype != after:
                casts[node.index] = name
            if what == "add":
                adds[node.index] = name
            elif what == "change" and not self._is_settled(start, node):
                changes[node.index] = name
        return ResidualPath(adds, changes, casts) if adds else None

    def _numel(self, value: int) -> int:
        return prod(self.graph.values[value].shape)

    def _is_settled(self, value: int, activation: Node) -> bool:
        """Whether an activation changes nothing in a value, as that comes out of the same activation."""
        if Trait.IDEMPOTENT not in traits_of(activation):
            return False
        while value in self.graph.maker:
            node = self.graph.maker[value]
            if rule_of(node.op) is rule_of(activation.op):
                return _numbers(node) == _numbers(activation)
            held = first_operand(node)
            if held is None or not traits_of(node) & (Trait.MOVES | Trait.REPEATS | Trait.SELECTS):
                return False
            value = held
        return False


def _numbers(node: Node) -> dict[str, Any]:
    return {name: held for name, held in node.args.items() if not isinstance(held, Ref)}
