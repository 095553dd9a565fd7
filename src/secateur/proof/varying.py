"""What varies with the numbers that a model looks at: tokens of an expert, boxes left by NMS.

A plan cannot predict these, so the proof by shape passes over them. They are found by recording the original
again on other numbers and noting what differs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from secateur.capture import record
from secateur.capture.inputs import map_inputs
from secateur.coupling import Recorded
from secateur.graph.node import Graph, Node, Path, scalars_in
from secateur.proof.drawing import random_like, randomised


@dataclass(frozen=True)
class Varying:
    """Parts of a record that depend on numbers.

    Attributes:
        literals: Node index and argument path of scalars.
        sizes: Value index and dim.
        counts: Indices of nodes with a varying number of results.
    """

    literals: frozenset[tuple[int, Path]] = frozenset()
    sizes: frozenset[tuple[int, int]] = frozenset()
    counts: frozenset[int] = frozenset()


NOTHING_VARIES = Varying()


def find_varying(recorded: Recorded, seed: int) -> Varying:
    """Find what varies, for a model that was recorded on real tensors; others look at no numbers.

    Args:
        recorded: The original; not changed.
        seed: For the other numbers.
    """
    model, graph = recorded.model, recorded.graph
    if graph.substrate != "real":
        return NOTHING_VARIES
    generator = torch.Generator().manual_seed(seed)
    drawn = map_inputs(recorded.inputs, lambda leaf: random_like(leaf, generator).to(leaf.dtype))
    dtype = next((held.dtype for held in model.parameters() if held.is_floating_point()), torch.float32)
    literals: set[tuple[int, Path]] = set()
    sizes: set[tuple[int, int]] = set()
    counts: set[int] = set()
    for subject in (model, randomised(model, seed).to(dtype)):
        other, _ = record(subject, drawn, "real", state=graph.state)
        for one, two in zip(graph.nodes, other.nodes, strict=False):
            if one.op != two.op:
                break
            literals |= {(one.index, path) for path in _differing_literals(one, two)}
            if len(one.outputs) != len(two.outputs):
                counts.add(one.index)
            sizes |= set(_differing_sizes(graph, one, other, two))
    return Varying(frozenset(literals), frozenset(sizes), frozenset(counts))


def _differing_literals(one: Node, two: Node) -> Iterator[Path]:
    theirs = scalars_in(two)
    for path, value in scalars_in(one).items():
        if theirs.get(path) != value:
            yield path


def _differing_sizes(graph: Graph, one: Node, other: Graph, two: Node) -> Iterator[tuple[int, int]]:
    for ours, theirs in zip(one.outputs, two.outputs, strict=False):
        if ours is not None and theirs is not None:
            before, after = graph.values[ours.value].shape, other.values[theirs.value].shape
            yield from (
                (ours.value, at) for at in range(len(before)) if before[at : at + 1] != after[at : at + 1]
            )
