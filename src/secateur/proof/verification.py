"""Verify: the proof by numbers for a plan, with the real and with randomised parameters."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from secateur.capture.copies import copy_module
from secateur.coupling import Groups
from secateur.errors import CaptureError, PathError
from secateur.graph.axes import Axis
from secateur.graph.keep import Mask
from secateur.graph.node import Graph
from secateur.plans.plan import Plan
from secateur.proof.numbers import Make, compare_numbers, drawn_inputs, mask_model, randomised
from secateur.proof.regrouping import regroup
from secateur.proof.verdict import Verdict

Run: TypeAlias = Callable[[Make, nn.Module, int | None, torch.dtype], tuple[float, float]]


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

    def run(make: Make, two: nn.Module, seed: int | None, dtype: torch.dtype) -> tuple[float, float]:
        try:
            return compare_numbers(make, two, example_inputs, groups, keep, seed, dtype)
        except PathError as error:
            if groups.graph.substrate != "real":
                raise
            missed = error.with_traceback(None)  # which holds on to the models
        inputs = drawn_inputs(example_inputs, seed, dtype)
        found = regroup(mask_model(make(), groups, keep, dtype), inputs, groups, keep)
        if found is None:
            raise missed
        return compare_numbers(make, two, inputs, *found, None, dtype)

    return prove(model, cut, plan, groups.graph, run, seed, tuple(sorted(renormalised)))


def prove(
    model: nn.Module,
    cut: nn.Module,
    plan: Plan,
    graph: Graph,
    run: Run,
    seed: int,
    differences: tuple[str, ...],
) -> Verdict:
    """Compare a reference with what a plan makes, with the real and with randomised parameters.

    Args:
        model: The original.
        cut: What the plan made of it.
        plan: The plan.
        graph: The record of the original.
        run: Compares an original, made anew, with what the plan made of it, on inputs of a seed (None: the
            example) in some precision; returns the relative error and the tolerance.
        seed: For the random inputs and parameters.
        differences: Where the reference computes otherwise than the original, as words.

    Raises:
        PathError: On real tensors the original takes another path than in its record of fake ones.
    """
    proofs: list[tuple[float, float]] = []
    failure = None
    compare = _Comparison(run, seed)
    try:
        proofs.append(compare(lambda: copy_module(model), cut))
        made = [randomised(model, seed)]
        random_cut = plan.apply(made[0])
        try:
            proofs.append(compare(lambda: made.pop() if made else randomised(model, seed), random_cut))
        except PathError as error:
            if graph.substrate != "real":
                raise
            compare.limits.append(f"not proven with randomised parameters: {error}".partition("\n")[0])
    except PathError:
        raise
    except CaptureError as error:
        proofs, failure = [(math.inf, 0.0)], str(error)
    worst = max(math.inf if math.isnan(error) else error for error, _ in proofs)
    tolerance = proofs[-1][1]
    if failure is None and not worst <= tolerance:
        failure = f"masked and cut outputs differ by {worst:.2g}, allowed is {tolerance:.0e}"
    return Verdict(worst, tolerance, differences, len(graph.nodes), failure, tuple(compare.limits))


class _Comparison:
    """Compares in float64 on random inputs; where a model cannot do that, as near to it as it can."""

    def __init__(
        self,
        run: Run,
        seed: int,
    ) -> None:
        self.run = run
        self.seed = seed
        self.dtype = torch.float64
        self.limits: list[str] = []

    def __call__(self, make: Make, cut: nn.Module) -> tuple[float, float]:
        """The relative error and the tolerance.

        Raises:
            PathError: The model takes another path than in its record, on the example itself too.
        """
        try:
            error, tolerance = self._on_some_inputs(make, cut)
            why = "the model computes no finite number" if math.isnan(error) else ""
        except (RuntimeError, TypeError, NotImplementedError) as failure:
            if self.dtype == torch.float32:
                raise CaptureError(f"the model does not run for the proof: {failure}") from failure
            why = str(failure).partition("\n")[0][:200]
        if not why or self.dtype == torch.float32:
            return error, tolerance
        self.dtype = torch.float32
        self.limits.append(f"proven in float32, as in float64: {why}")
        return self(make, cut)

    def _on_some_inputs(self, make: Make, cut: nn.Module) -> tuple[float, float]:
        """Random inputs; where those lead the model on another path, the example itself."""
        with contextlib.suppress(PathError):
            return self.run(make, cut, self.seed, self.dtype)
        return self.run(make, cut, None, self.dtype)
