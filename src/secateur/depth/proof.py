"""The proof of a drop, in the two forms of `check`.

By shape: the record of the dropped model is the original's without the operators of the dropped blocks. By
number: the reference is the original in which the branches of those blocks contribute nothing, so that every
addition on the residual path gives back the stream; what acts on the stream in a block (the layer norm behind
an addition) goes with it and is named in the verdict. Float64, the real parameters and randomised ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.capture import Step
from secateur.coupling import Groups
from secateur.depth.blocks import Block
from secateur.depth.wiring import Wiring
from secateur.graph.keep import Kept
from secateur.graph.node import Graph, Node, refs_in
from secateur.plans.plan import Plan
from secateur.proof import Deviation, Proof, Reference, Verdict, compare_records
from secateur.proof.draws import draws, run
from secateur.proof.lockstep import ALONE
from secateur.proof.shapes import pairs


@dataclass(frozen=True)
class Rest:
    """What is left of an original without some blocks.

    Attributes:
        groups: The groups of the original.
        blocks: The dropped blocks.
        graph: The rest of its record, in the order of the dropped model's; calls that only the dropped model
            makes have the index `ALONE`.
    """

    groups: Groups
    blocks: Sequence[Block]
    graph: Graph


def compare_dropped(
    groups: Groups, blocks: Sequence[Block], plan: Plan, dropped: Graph, failure: Exception | None
) -> tuple[Rest, Deviation | None]:
    """Compare the record of a dropped model with the rest of the original's.

    What is made for a block outside of it may go with it: its place in a cache, the only mask of its kind. If
    the records differ, the calls that count are matched by what they are given: those that an input or a
    parameter takes part in and that come into what the model returns.

    Args:
        groups: The groups of the original.
        blocks: The dropped blocks.
        plan: What drops them.
        dropped: The record of the dropped model, partial if it failed.
        failure: What it failed with.

    Returns:
        The rest, and the first deviation; None if the rest is as it was.
    """
    gone = frozenset().union(*(block.nodes for block in blocks))
    graph = replace(groups.graph, nodes=tuple(node for node in groups.graph.nodes if node.index not in gone))
    rest = Rest(groups, blocks, graph)
    deviation = compare_records(replace(groups, graph=graph), Kept({}), dropped, failure)
    if failure is not None:
        return rest, deviation
    if deviation is None and plan.lists:
        both = list(pairs(graph.nodes, dropped.nodes))
        deviation = Wiring(groups.graph, blocks, plan, dropped).compare(both)
    if deviation is None:
        return rest, None
    wiring = Wiring(groups.graph, blocks, plan, dropped)
    matched = wiring.match(_that_count(groups.graph, blocks), _that_count(dropped))
    if matched is None or wiring.compare(matched) is not None:
        return rest, deviation
    partners = {other.index: node for node, other in matched}
    script = tuple(partners.get(node.index, replace(node, index=ALONE)) for node in dropped.nodes)
    return replace(rest, graph=replace(graph, nodes=script)), None


def _that_count(graph: Graph, blocks: Sequence[Block] = ()) -> tuple[Node, ...]:
    """The nodes outside of blocks whose results are no constants and come into what the model returns."""
    gone = frozenset().union(*(block.nodes for block in blocks))
    streams = {index: name for block in blocks for index, name in {**block.adds, **block.changes}.items()}
    read = set(graph.outputs)
    found: list[Node] = []
    for node in reversed(graph.nodes):
        if node.index in gone:
            if not read.isdisjoint(node.makes):  # it lies on the path, which is all that a block hands on
                name = streams.get(node.index)
                read.update(node.reads if name is None else (ref.value for ref in refs_in(node.args[name])))
            continue
        is_constant = graph.from_tensors.isdisjoint((*node.reads, *node.makes)) and not draws(node)
        if node.op.endswith("_") and not is_constant:  # whoever shares the memory reads it
            read.update(node.makes)
        if read.isdisjoint(node.makes):
            continue
        read.update(node.reads)
        if not is_constant:
            found.append(node)
    return tuple(reversed(found))


def verify_dropped(
    model: nn.Module,
    dropped: nn.Module,
    example_inputs: Any,
    rest: Rest,
    plan: Plan,
    seed: int = 0,
) -> Verdict:
    """Prove by numbers that a dropped model computes what the original does without the blocks' branches.

    Args:
        model: The original.
        dropped: The dropped model, with the original's values.
        example_inputs: Inputs of both.
        rest: What is left of the original.
        plan: What drops the blocks.
        seed: For the random inputs and parameters.

    Raises:
        PathError: On real tensors the original takes another path than in its record of fake ones.
    """
    left_out = tuple(
        f"{block.name} goes with what acts on its stream: {rest.groups.graph.nodes[index]}"
        for block in rest.blocks
        for index in block.changes
    )
    reference = Reference(rest.groups, Kept({}), rest.graph, _Silencer(rest.blocks))
    proof = Proof(model, plan, reference, example_inputs, seed)
    order = [node.index for node in rest.graph.nodes if node.index != ALONE]
    proof.in_turn = order != sorted(order)
    return proof.verdict(dropped, left_out)


class _Silencer:
    """Runs the original; on the residual path of a dropped block, gives the stream back as it came."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.streams: Mapping[int, str] = {
            index: name
            for block in blocks
            for path in (block.adds, block.changes)
            for index, name in path.items()
        }
        self.casts = {index: name for block in blocks for index, name in block.casts.items()}

    def __call__(self, step: Step) -> Any:
        if step.node.index in self.casts:
            return step.named()[self.casts[step.node.index]].clone()
        name = self.streams.get(step.node.index)
        if name is None:
            return run(step)
        # The operator may write in place, into the stream or into the branch.
        stream = step.named()[name].clone()
        return step.run().copy_(stream)
