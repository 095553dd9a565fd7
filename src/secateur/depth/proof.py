"""The proof of a drop, in the two forms of `check`.

By shape: the record of the dropped model is the original's without the operators of the dropped blocks. By
number: the reference is the original in which the branches of those blocks contribute nothing, so that every
addition on the residual path gives back the stream; what acts on the stream in a block (the layer norm behind
an addition) goes with it and is named in the verdict. Float64, the real parameters and randomised ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.capture import Step
from secateur.coupling import Groups
from secateur.depth.blocks import Block
from secateur.graph.keep import Kept
from secateur.graph.node import Graph
from secateur.plans.plan import Plan
from secateur.proof import Deviation, Proof, Reference, Verdict, compare_records
from secateur.proof.draws import run


def compare_dropped(
    groups: Groups, blocks: Sequence[Block], dropped: Graph, failure: Exception | None
) -> Deviation | None:
    """Compare the record of a dropped model with the rest of the original's.

    Args:
        groups: The groups of the original.
        blocks: The dropped blocks.
        dropped: The record of the dropped model, partial if it failed.
        failure: What it failed with.

    Returns:
        The first deviation; None if the rest is as it was.
    """
    rest = replace(groups, graph=_rest(groups.graph, blocks))
    return compare_records(rest, Kept({}), dropped, failure)


def _rest(graph: Graph, blocks: Sequence[Block]) -> Graph:
    """A record without the operators of some blocks."""
    gone = frozenset().union(*(block.nodes for block in blocks))
    return replace(graph, nodes=tuple(node for node in graph.nodes if node.index not in gone))


def verify_dropped(
    model: nn.Module,
    dropped: nn.Module,
    example_inputs: Any,
    groups: Groups,
    blocks: Sequence[Block],
    plan: Plan,
    seed: int = 0,
) -> Verdict:
    """Prove by numbers that a dropped model computes what the original does without the blocks' branches.

    Args:
        model: The original.
        dropped: The dropped model, with the original's values.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        blocks: The dropped blocks.
        plan: What drops them.
        seed: For the random inputs and parameters.

    Raises:
        PathError: On real tensors the original takes another path than in its record of fake ones.
    """
    left_out = tuple(
        f"{block.name} goes with what acts on its stream: {groups.graph.nodes[index]}"
        for block in blocks
        for index in block.changes
    )
    reference = Reference(groups, Kept({}), _rest(groups.graph, blocks), _Silencer(blocks))
    return Proof(model, plan, reference, example_inputs, seed).verdict(dropped, left_out)


class _Silencer:
    """Runs the original; on the residual path of a dropped block, gives the stream back as it came."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.streams: Mapping[int, str] = {
            index: name
            for block in blocks
            for path in (block.adds, block.changes)
            for index, name in path.items()
        }

    def __call__(self, step: Step) -> Any:
        name = self.streams.get(step.node.index)
        if name is None:
            return run(step)
        # The operator may write in place, into the stream or into the branch.
        stream = step.named()[name].clone()
        return step.run().copy_(stream)
