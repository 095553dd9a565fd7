"""Groups of another record of the same model: other numbers, another size, training mode.

The record of the original tells nothing of the path that a cut model takes where numbers decide it (boxes
that survive, experts that get tokens), but the masked original computes the same numbers as the cut one, so
it takes the same path: it is recorded on the very numbers of a proof. Groups have the same names in every
record.
"""

from typing import Any

from torch import nn

from secateur.capture.recorder import record
from secateur.coupling import Groups, couple_graph
from secateur.graph.axes import Axis
from secateur.graph.keep import Kept, Mask
from secateur.graph.node import Graph


def regroup(reference: nn.Module, inputs: Any, groups: Groups, kept: Kept) -> tuple[Groups, Kept] | None:
    """Record and couple the masked original.

    Args:
        reference: The masked original, in the precision of the proof.
        inputs: The inputs of the proof.
        groups: The groups of the original.
        kept: What stays of each axis.

    Returns:
        Its groups and what stays of them; None where it does not run so, or holds other groups.
    """
    graph, failure = record(reference, inputs, "real", state=groups.graph.state)
    return None if failure is not None else carried_over(groups, kept, graph)


def carried_over(groups: Groups, kept: Kept, graph: Graph) -> tuple[Groups, Kept] | None:
    """The groups of another record with the same positions kept.

    Args:
        groups: The groups of the first record.
        kept: What stays of them.
        graph: The other record.

    Returns:
        The other groups and what stays of them; None where a group is missing or has another size.
    """
    again = couple_graph(graph)
    masks: dict[Axis, Mask] = {}
    for held, mask in kept.masks.items():
        name = groups.name_of[held]
        if name not in again.by_name or again[name].size != len(mask):
            return None
        masks[again[name].axis] = mask
    return again, Kept(masks)
