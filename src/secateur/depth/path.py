"""The residual path: how the stream that goes into a block comes out of it again.

    y = act(x + f(x))        path: x, add, act

A path goes from a value to another through additions, through operators that hand values on as they are
(dropout in eval mode, views), and through normalisations and activations. Of several paths the one with the
fewest of the latter counts: what lies on it stays when the branches f contribute nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from secateur.graph.node import Graph, Node, Ref

_ADDING = {"aten.add": ("self", "other"), "aten.sub": ("self",), "aten.addcmul": ("self",)}
"""Operators that add to a stream, and the arguments that may be it."""

_HANDING_ON = {
    "aten.alias",
    "aten.alpha_dropout",
    "aten.clone",
    "aten.contiguous",
    "aten.detach",
    "aten.dropout",
    "aten.feature_alpha_dropout",
    "aten.feature_dropout",
    "aten.flatten",
    "aten.movedim",
    "aten.permute",
    "aten.reshape",
    "aten.squeeze",
    "aten.to",
    "aten._to_copy",
    "aten.transpose",
    "aten.unflatten",
    "aten.unsqueeze",
    "aten.view",
}
"""Operators that change no value; dropout only as it is called in eval mode."""

_IDEMPOTENT = {"aten.relu", "aten.relu6", "aten.hardtanh", "aten.clamp", "aten.clamp_min"}
"""Activations that change nothing when they are applied again."""

_CHANGING = _IDEMPOTENT | {
    "aten.batch_norm",
    "aten.celu",
    "aten.elu",
    "aten.gelu",
    "aten.group_norm",
    "aten.hardswish",
    "aten.instance_norm",
    "aten.layer_norm",
    "aten.leaky_relu",
    "aten.mish",
    "aten.prelu",
    "aten.rms_norm",
    "aten.selu",
    "aten.silu",
    "aten.softplus",
    "aten.tanh",
}
"""Normalisations and activations that may stand on the path."""

_SELECTING = {"aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.adaptive_max_pool2d"}
"""Operators whose outputs are some of their inputs."""


@dataclass(frozen=True)
class ResidualPath:
    """The nodes between the stream that goes into a block and the one that comes out.

    Attributes:
        adds: By index of each adding node: the argument that is the stream.
        changes: The same for normalisations and activations that dropping the block removes from the stream.
    """

    adds: Mapping[int, str]
    changes: Mapping[int, str]


def _stem(node: Node) -> str:
    """The operator without the mark of its in-place form."""
    return node.op if node.op in _HANDING_ON else node.op.removesuffix("_")


def _streams(node: Node) -> Iterator[tuple[str, int, str]]:
    """The arguments of a node that may be a stream: name, value, and what the node does to it."""
    op, args = _stem(node), node.args
    if op in _ADDING:
        operands = [args.get(name) for name in ("self", "other", "tensor1")]
        if sum(isinstance(held, Ref) for held in operands) < 2:
            return  # a number is no branch
        for name in _ADDING[op]:
            held = args.get(name)
            if isinstance(held, Ref) and (name == "self" or args.get("alpha", 1) == 1):
                yield name, held.value, "add"
    elif op in _HANDING_ON and not args.get("train", False):
        yield from _first(node, "hand on")
    elif op in _CHANGING:
        yield from _first(node, "change")


def _first(node: Node, what: str) -> Iterator[tuple[str, int, str]]:
    name = "input" if "input" in node.args else "self"
    held = node.args.get(name)
    if isinstance(held, Ref):
        yield name, held.value, what


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
        value = end
        while value != start:
            if value not in came:
                return None
            node, name, value, what = came[value]
            if what == "add":
                adds[node.index] = name
            elif what == "change" and not self._is_settled(start, node):
                changes[node.index] = name
        return ResidualPath(adds, changes) if adds else None

    def _numel(self, value: int) -> int:
        return prod(self.graph.values[value].shape)

    def _is_settled(self, value: int, activation: Node) -> bool:
        """Whether an activation changes nothing in a value, as that comes out of the same activation."""
        if _stem(activation) not in _IDEMPOTENT:
            return False
        while value in self.graph.maker:
            node = self.graph.maker[value]
            if _stem(node) == _stem(activation):
                return _numbers(node) == _numbers(activation)
            held = node.args.get("self", node.args.get("input"))
            if _stem(node) not in _HANDING_ON | _SELECTING or not isinstance(held, Ref):
                return False
            value = held.value
        return False


def _numbers(node: Node) -> dict[str, Any]:
    return {name: held for name, held in node.args.items() if not isinstance(held, Ref)}
