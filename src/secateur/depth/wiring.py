"""Wiring: whether every call of a shortened model is given what its partner in the original was given.

Behind a layer that left its list all others have other numbers. Code that reads tables, heads or results by
the number of a layer then makes the same calls, of the same sizes, with others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from secateur.capture.follower import DENSE
from secateur.depth.blocks import Block
from secateur.graph.node import Graph, Node, first_operand, refs_in, scalars_in
from secateur.plans.plan import Plan
from secateur.proof import Deviation


class Wiring:
    """Which value of a dropped model each value of the original is.

    Args:
        graph: The record of the original.
        blocks: The dropped blocks, which hand on their streams.
        plan: What drops them.
        dropped: The record of the dropped model.
    """

    def __init__(self, graph: Graph, blocks: Sequence[Block], plan: Plan, dropped: Graph) -> None:
        self.graph, self.dropped = graph, dropped
        self.gone = frozenset().union(*(block.nodes for block in blocks))
        self.streams = {i: name for block in blocks for i, name in {**block.adds, **block.changes}.items()}
        self.same = dict(zip(graph.inputs, dropped.inputs, strict=True))
        for name, value in graph.tensors.items():
            after = plan.renamed(name)
            if after is not None and after in dropped.tensors:
                self.same[value] = dropped.tensors[after]

    def compare(self, partners: Iterable[tuple[Node | None, Node | None]]) -> Deviation | None:
        """Compare what calls are given, and what both models return.

        Args:
            partners: The calls of the original's record beside those of the dropped model's.

        Returns:
            The first call that is given something else; None if there is none.
        """
        both = [(node, other) for node, other in partners if node and other]
        paired, others = {node.index for node, _ in both}, {other.index for _, other in both}
        for node, other in both:
            for ours, theirs in zip(_refs(node), _refs(other), strict=False):
                value, got = self._here(ours, paired), self._there(theirs, others)
                if value in self.graph.from_tensors and self.same.get(value) != got:
                    what = f"the cut model gives it {_name(self.dropped, got)}"
                    return Deviation(node, f"{what} instead of {_name(self.graph, value)}", ())
            for ref, made in zip(node.outputs, other.outputs, strict=False):
                if ref is not None and made is not None:
                    self.same[ref.value] = made.value
        for at, (one, two) in enumerate(zip(self.graph.outputs, self.dropped.outputs, strict=False)):
            if self.same.get(self._here(one, paired)) != self._there(two, others):
                return Deviation(None, f"output {at} of the cut model is what another call makes", ())
        if len(self.graph.outputs) != len(self.dropped.outputs):
            return Deviation(None, "the cut model returns another number of tensors", ())
        return None

    def match(self, ours: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[Node, Node]] | None:
        """Find the partner of each call by what it is given, in whatever order the calls are made.

        Code that goes through a set makes them in another order when the set has another first member.

        Args:
            ours: Calls of the original.
            theirs: Calls of the dropped model.

        Returns:
            The calls beside each other, in the order of the dropped model's; None if some have no partner.
        """
        waiting: dict[Any, list[Node]] = {}
        for node in ours:
            if node.op != DENSE:
                values = [self._here(value, set()) for value in _refs(node)]
                known = [value if value in self.graph.from_tensors else None for value in values]
                waiting.setdefault(_call(node, known), []).append(node)
        back = {value: own for own, value in self.same.items()}
        found: list[tuple[Node, Node]] = []
        for other in theirs:
            if other.op == DENSE:
                continue
            values = [self._there(value, set()) for value in _refs(other)]
            known = [back.get(value) if value in self.dropped.from_tensors else None for value in values]
            partners = waiting.get(_call(other, known))
            if not partners:
                return None
            node = partners.pop(0)
            found.append((node, other))
            back.update(zip(other.makes, node.makes, strict=False))
        return None if any(waiting.values()) else found

    def _here(self, value: int, paired: set[int]) -> int:
        """The value of the original that is left where a block hands on its stream."""
        while (node := self.graph.maker.get(value)) is not None:
            if node.index in self.gone:
                name = self.streams.get(node.index)
                held = first_operand(node) if name is None else next(refs_in(node.args[name])).value
            elif node.op == DENSE and node.index not in paired:
                held = first_operand(node)
            else:
                break
            if held is None:
                break
            value = held
        return value

    def _there(self, value: int, paired: set[int]) -> int:
        while (node := self.dropped.maker.get(value)) is not None:
            held = first_operand(node) if node.op == DENSE and node.index not in paired else None
            if held is None:
                break
            value = held
        return value


def read_otherwise(original: Graph, dropped: Graph, plan: Plan) -> str | None:
    """Tell where a dropped model reads a parameter that the original does not read there, or returns less.

    What is read between two layers may be read in any order, and less of it.

    Args:
        original: A record of the original, in training mode: its streams need not be known.
        dropped: A record of the dropped model in the same mode.
        plan: What drops its blocks.
    """
    gone = set(plan.dropped)
    rest = [node for node in original.nodes if not gone.intersection(node.modules)]
    names = {value: {plan.renamed(name) for name in names} for value, names in original.names.items()}
    lists = tuple(f"{plan.renamed(name)}." for name in plan.lists)
    ours = iter(_between_layers(rest, names, lists))
    theirs = {value: set(names) for value, names in dropped.names.items()}
    for layer, others in _between_layers(dropped.nodes, theirs, lists):
        known = next((held for own, held in ours if own == layer), None)
        wrong = [layer] if known is None else sorted(others - known, key=sorted)
        if wrong:
            return f"it reads {min(wrong[0])} where the original reads something else"
    if len(dropped.outputs) != len(original.outputs):
        return f"it returns {len(dropped.outputs)} tensors, the original {len(original.outputs)}"
    return None


def _between_layers(
    nodes: Iterable[Node], names: Mapping[int, set[Any]], lists: tuple[str, ...]
) -> list[tuple[frozenset[str], set[frozenset[str]]]]:
    """The parameters of layers that calls read, in order, each with what else is read before the next."""
    found: list[tuple[frozenset[str], set[frozenset[str]]]] = [(frozenset(), set())]
    for node in nodes:
        for value in node.reads:
            read = frozenset(names.get(value, ())) - {None}
            if any(name.startswith(lists) for name in read):
                found.append((read, set()))
            elif value in names:
                found[-1][1].add(read)
    return found


def _call(node: Node, given: Sequence[int | None]) -> Any:
    return node.op, tuple(sorted(map(repr, scalars_in(node).items()))), tuple(given)


def _name(graph: Graph, value: int) -> str:
    maker = graph.maker.get(value)
    return graph.names.get(value, ("a tensor" if maker is None else f"what {maker} makes",))[0]


def _refs(node: Node) -> Iterator[int]:
    for held in node.args.values():
        yield from (ref.value for ref in refs_in(held))
