"""Groups of another record of the same model: other numbers, another size, training mode.

The record of the original tells nothing of the path that a cut model takes where numbers decide it (boxes
that survive, experts that get tokens), but the masked original computes the same numbers as the cut one, so
it takes the same path: it is recorded on the very numbers of a proof. What stays is known by the parameters.
"""

from typing import Any

import numpy as np
from torch import nn

from secateur.capture.recording import Moment, record
from secateur.coupling import Groups, couple_graph
from secateur.coupling.training import without_noise
from secateur.errors import CaptureError
from secateur.graph.axes import Axis, leaves
from secateur.graph.keep import Kept, Mask
from secateur.graph.node import Graph


def regroup(
    reference: nn.Module,
    inputs: Any,
    groups: Groups,
    kept: Kept,
    *,
    training: bool = False,
    moment: Moment | None = None,
    substrate: str = "real",
) -> tuple[tuple[Groups, Kept] | None, Exception | None]:
    """Record and couple the masked original.

    Args:
        reference: The masked original, in the precision of the proof.
        inputs: The inputs of the proof.
        groups: The groups of the original.
        kept: What stays of each axis.
        training: Record the training mode.
        moment: At which call, with which random numbers; None is the next call.
        substrate: What to record on; fake tensors do where numbers decide nothing.

    Returns:
        Its groups and what stays of them; None where it does not run so, or holds other groups. And what it
        failed with.
    """
    options: dict[str, Any] = {"training": training, "state": groups.graph.state, "moment": moment}
    graph, failure = record(reference, inputs, substrate, **options)
    if failure is not None:
        return None, failure
    found = carried_over(groups, kept, graph)
    return found, None if found is not None else CaptureError("it holds other groups of channels there")


def carried_over(groups: Groups, kept: Kept, graph: Graph) -> tuple[Groups, Kept] | None:
    """The groups of another record with the same positions kept.

    Args:
        groups: The groups of the first record.
        kept: What stays of them.
        graph: The other record. Dropout that is on counts as if it were off.

    Returns:
        The other groups and what stays of them; None where they cut a tensor otherwise.
    """
    again = couple_graph(without_noise(graph))
    masks: dict[Axis, Mask] = {}
    for name in [one for one in groups.graph.tensors if one in graph.tensors]:
        for ours, theirs in zip(groups.dims(name), again.dims(name), strict=True):
            mine, others = leaves(ours), leaves(theirs)
            if [leaf.size for leaf in mine] != [leaf.size for leaf in others]:
                if kept.cuts(ours):
                    return None
                continue
            for leaf, other in zip(mine, others, strict=True):
                mask = kept.masks.get(leaf)
                if mask is not None and not np.array_equal(masks.setdefault(other, mask), mask):
                    return None
    return again, Kept(masks)
