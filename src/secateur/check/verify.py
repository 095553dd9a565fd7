"""Verify: the proof by numbers for a plan, with the real and with randomised parameters."""

import math
from typing import Any

import numpy as np
from torch import nn

from secateur.check.numbers import compare_numbers, randomised
from secateur.check.verdict import Verdict
from secateur.couple import Groups
from secateur.errors import CaptureError
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
    """
    keep = keep_masks(groups, plan)
    changed = {held for held, mask in keep.items() if not mask.all()}
    renormalised = {group.renormalised for group in groups if group.axis in changed and group.renormalised}
    errors: list[float] = []
    tolerance, failure = 0.0, None
    random_model = randomised(model, seed)
    try:
        for one, two in ((model, cut), (random_model, plan.apply(random_model))):
            error, tolerance = compare_numbers(one, two, example_inputs, groups, keep, seed)
            errors.append(error)
    except CaptureError as error:
        errors, failure = [math.inf], str(error)
    worst = max(math.inf if math.isnan(error) else error for error in errors)
    if failure is None and not worst <= tolerance:
        failure = f"masked and cut outputs differ by {worst:.2g}, allowed is {tolerance:.0e}"
    return Verdict(worst, tolerance, tuple(sorted(renormalised)), len(groups.graph.nodes), failure)
