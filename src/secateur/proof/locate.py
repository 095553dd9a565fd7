"""Where numbers first differ: the operator to name when a cut model and the masked one disagree.

Removed positions of the masked run are zero, so sums of a result and of its squares are those of the cut run.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import Step, follow
from secateur.capture.copies import copy_module
from secateur.capture.inputs import map_inputs
from secateur.coupling import Groups
from secateur.errors import CaptureError
from secateur.graph.axes import Axis
from secateur.graph.keep import Mask
from secateur.graph.node import Graph, Node
from secateur.proof.numbers import Masker, drawn_inputs, mask_model, results_of

_TOLERANCE = 1e-6


def first_difference(
    model: nn.Module,
    cut: nn.Module,
    example_inputs: Any,
    groups: Groups,
    keep: dict[Axis, Mask],
    cut_graph: Graph,
    seed: int,
) -> Node | None:
    """Find the first operator whose result differs between the masked original and the cut model.

    Args:
        model: The original; not changed.
        cut: The cut model; not changed.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        keep: A mask for each cut axis.
        cut_graph: The record of the cut model.
        seed: For the random inputs.

    Returns:
        The operator in the record of the original; None where none is found, or the runs cannot be followed.
    """
    inputs = drawn_inputs(example_inputs, seed, torch.float64)
    masker = Masker(groups, keep)
    reference = mask_model(copy_module(model), groups, keep)
    try:
        ours = _sums(reference, inputs, groups.graph, masker)
        theirs = _sums(mask_model(copy_module(cut), groups, {}), inputs, cut_graph, Step.run)
    except (CaptureError, RuntimeError, TypeError):
        return None
    for node, one, two in zip(groups.graph.nodes, ours, theirs, strict=False):
        if not all(
            math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=1e-9) for a, b in zip(one, two, strict=False)
        ):
            return node
    return None


def _sums(model: nn.Module, inputs: Any, graph: Graph, run: Any) -> list[list[float]]:
    """The sum of each result and of its squares, operator by operator."""
    sums: list[list[float]] = []

    def on_step(step: Step) -> Any:
        output = run(step)
        tensors = [
            item for item in results_of(output) if isinstance(item, Tensor) and item.is_floating_point()
        ]
        sums.append([float(number) for item in tensors for number in (item.sum(), item.square().sum())])
        return output

    follow(model, map_inputs(inputs, torch.clone), graph, on_step)
    return sums
