"""Groups of another record of the same model: other numbers, another size, training mode.

The record of the original tells nothing of the path that a cut model takes where numbers decide it (boxes
that survive, experts that get tokens), but the masked original computes the same numbers as the cut one, so
it takes the same path: it is recorded on the very numbers of a proof. Groups have the same names in every
record.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from secateur.capture.recorder import record
from secateur.coupling import Groups, couple_graph
from secateur.errors import CaptureError
from secateur.graph.axes import Axis
from secateur.graph.keep import Kept, Mask
from secateur.graph.node import Graph, Node


def regroup(
    reference: nn.Module, inputs: Any, groups: Groups, kept: Kept, *, training: bool = False
) -> tuple[tuple[Groups, Kept] | None, Exception | None]:
    """Record and couple the masked original.

    Args:
        reference: The masked original, in the precision of the proof.
        inputs: The inputs of the proof.
        groups: The groups of the original.
        kept: What stays of each axis.
        training: Record the training mode.

    Returns:
        Its groups and what stays of them; None where it does not run so, or holds other groups. And what it
        failed with.
    """
    graph, failure = record(reference, inputs, "real", training=training, state=groups.graph.state)
    if failure is not None:
        return None, failure
    found = carried_over(groups, kept, graph)
    return found, None if found is not None else CaptureError("it holds other groups of channels there")


def carried_over(groups: Groups, kept: Kept, graph: Graph) -> tuple[Groups, Kept] | None:
    """The groups of another record with the same positions kept.

    Args:
        groups: The groups of the first record.
        kept: What stays of them.
        graph: The other record. Dropout that is on counts as if it were off: a proof gives both models the
            same noise.

    Returns:
        The other groups and what stays of them; None where a group is missing or has another size.
    """
    again = couple_graph(replace(graph, nodes=tuple(map(_quiet, graph.nodes))))
    masks: dict[Axis, Mask] = {}
    for held, mask in kept.masks.items():
        name = groups.name_of[held]
        if name not in again.by_name or again[name].size != len(mask):
            return None
        masks[again[name].axis] = mask
    return again, Kept(masks)


def _quiet(node: Node) -> Node:
    """An operator of the training mode with its noise off."""
    if "dropout" not in node.op and "rrelu" not in node.op:
        return node
    off = {name: False for name in ("train", "training") if name in node.args}
    return replace(node, args={**node.args, **off})
