"""Low-rank adapters: their rank is a number of their file, and no width of the network.

    y = W x + s * B (A x)          W frozen, A and B of a few dims between

An adapter (LoRA) that is beside a frozen layer is trained, saved and loaded by itself, with its rank in a
config of its own. Cut to another rank it would not load, so the rank stays unless it is asked for by name.

References:
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1.
    https://arxiv.org/abs/2106.09685
"""

from collections.abc import Collection, Iterator

from secateur.coupling.groups import Groups
from secateur.coupling.layers import LayerCall, layer_of
from secateur.coupling.rule import traits_of
from secateur.graph.axes import leaves
from secateur.graph.node import Graph, Node, first_operand
from secateur.graph.trait import Trait


def ranks_of(groups: Groups, frozen: Collection[str]) -> dict[str, str]:
    """Find the groups that are the rank of an adapter.

    Args:
        groups: The groups of a model.
        frozen: Names of its parameters that do not train.

    Returns:
        A reason by group name.
    """
    reasons: dict[str, str] = {}
    for base, inner in _adapters(groups.graph, frozen):
        for leaf in leaves(groups.findings.dims[inner.output][inner.channels_at]):
            if leaf in groups.name_of:
                reasons[groups.name_of[leaf]] = f"the rank of an adapter beside {base.name}, which is frozen"
    return reasons


def has_adapters(graph: Graph, frozen: Collection[str]) -> bool:
    """Whether some layer is the first of an adapter."""
    return next(_adapters(graph, frozen), None) is not None


def _adapters(graph: Graph, frozen: Collection[str]) -> Iterator[tuple[LayerCall, LayerCall]]:
    """Each frozen layer with the first layer of an adapter beside it."""
    layers = (layer_of(graph, node) for node in graph.nodes) if frozen else ()
    made = {layer.output: layer for layer in layers if layer is not None}
    for node in graph.nodes if made else ():
        found = [made[at] for value in node.reads if (at := _source(graph, value)) in made]
        if Trait.SUMS not in traits_of(node) or len(found) != 2:
            continue
        for base, outer in (found, found[::-1]):
            inner = made.get(_source(graph, outer.input))
            is_frozen = any(name in frozen for name in graph.names.get(base.weight, ()))
            if inner is not None and is_frozen and _is_beside(graph, base, inner):
                yield base, inner


def _is_beside(graph: Graph, base: LayerCall, inner: LayerCall) -> bool:
    """Whether two layers read the same, and the second one makes less than the first one reads and makes."""
    rank = graph.values[inner.output].shape[inner.channels_at]
    ends = [graph.values[value].shape[base.channels_at] for value in (base.input, base.output)]
    return _source(graph, inner.input) == _source(graph, base.input) and rank < min(ends)


def _source(graph: Graph, value: int) -> int:
    """The value that another one is, up to moves, casts, dropout and a number it is multiplied with."""
    node = graph.maker.get(value)
    source = None if node is None else first_operand(node)
    while node is not None and source is not None and _is_passed(node):
        value = source
        node = graph.maker.get(value)
        source = None if node is None else first_operand(node)
    return value


def _is_passed(node: Node) -> bool:
    is_scaled = Trait.MULTIPLIES in traits_of(node) and len(node.reads) == 1
    return is_scaled or Trait.MOVES in traits_of(node)
