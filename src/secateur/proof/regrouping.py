"""Models whose path depends on numbers: boxes that survive, experts that get tokens, classes that occur.

The record of the original tells nothing of the path that a cut model takes, but the masked original computes
the same numbers as the cut one, so it takes the same path. It is recorded on the very numbers of a proof.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.capture import record
from secateur.coupling import Groups, couple_graph
from secateur.graph.axes import Axis
from secateur.graph.keep import Mask


def regroup(
    reference: nn.Module, inputs: Any, groups: Groups, keep: Mapping[Axis, Mask]
) -> tuple[Groups, dict[Axis, Mask]] | None:
    """Record and couple the masked original.

    Args:
        reference: The masked original, in the precision of the proof.
        inputs: The inputs of the proof.
        groups: The groups of the original.
        keep: A mask for each cut axis.

    Returns:
        Its groups with their masks; None where it does not run so, or holds other groups.
    """
    graph, failure = record(reference, inputs, "real")
    if failure is not None:
        return None
    again = couple_graph(graph)
    masks: dict[Axis, Mask] = {}
    for held, mask in keep.items():
        name = groups.name_of[held]
        if name not in again.by_name or again[name].size != len(mask):
            return None
        masks[again[name].axis] = mask
    return again, masks
