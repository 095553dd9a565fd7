"""Verify: the proof by numbers for a plan, with the real and with randomised parameters."""

import math
from typing import Any

import numpy as np
from torch import nn

from secateur.check.numbers import compare_numbers, randomised
from secateur.check.verdict import Verdict
from secateur.couple import Groups
from secateur.errors import CaptureError, PathError
from secateur.graph.axes import Axis
from secateur.graph.keep import Mask
from secateur.plan import Plan


def keep_masks(groups: Groups, plan: Plan) -> dict[Axis, Mask]:
    """A mask for the axis of each group in a plan."""
    return {groups[group.name].axis: np.isin(np.arange(group.size), group.keep) for group in plan.groups}


def verify(
    model: nn.Module, cut: nn.Module, example_inputs: Any, groups: Groups, plan: Plan, seed: int = 0
) -> Verdict:
    """Prove by numbers that a cut model computes what the masked original does.

    Args:
        model: The original.
        cut: The cut model, with the original's values at the kept positions.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        plan: What was kept.
        seed: For the random inputs and parameters.

    Raises:
        PathError: On real tensors the original takes another path than in its record of fake ones.
    """
    keep = keep_masks(groups, plan)
    changed = {held for held, mask in keep.items() if not mask.all()}
    renormalised = {group.renormalised for group in groups if group.axis in changed and group.renormalised}
    random_model = randomised(model, seed)
    proofs: list[tuple[float, float]] = []
    limits: list[str] = []
    failure = None
    try:
        proofs.append(_compare_on_any(model, cut, example_inputs, groups, keep, seed))
        random_cut = plan.apply(random_model)
        try:
            proof = _compare_on_any(random_model, random_cut, example_inputs, groups, keep, seed)
        except PathError as error:
            if groups.graph.substrate != "real":
                raise
            limits.append(f"not proven with randomised parameters: {error}".partition("\n")[0])
        else:
            proofs.append(proof)
    except PathError:
        raise
    except CaptureError as error:
        proofs, failure = [(math.inf, 0.0)], str(error)
    worst = max(math.inf if math.isnan(error) else error for error, _ in proofs)
    tolerance = proofs[-1][1]
    if failure is None and not worst <= tolerance:
        failure = f"masked and cut outputs differ by {worst:.2g}, allowed is {tolerance:.0e}"
    nodes = len(groups.graph.nodes)
    return Verdict(worst, tolerance, tuple(sorted(renormalised)), nodes, failure, tuple(limits))


def _compare_on_any(
    model: nn.Module, cut: nn.Module, example_inputs: Any, groups: Groups, keep: dict[Axis, Mask], seed: int
) -> tuple[float, float]:
    """Compare on random inputs; where those lead the model on another path, on the example itself."""
    try:
        return compare_numbers(model, cut, example_inputs, groups, keep, seed)
    except PathError:
        return compare_numbers(model, cut, example_inputs, groups, keep, None)
