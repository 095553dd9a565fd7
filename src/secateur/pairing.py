"""Pair a saved cut model with the one it was cut from, so that it can be recovered like a fresh result."""

from typing import Any

import numpy as np
from torch import nn

from secateur.architecture import fingerprint, tensor_shapes
from secateur.capture.unwrap import unwrap
from secateur.costs import cost_of
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.graph.axes import Axis
from secateur.graph.keep import DimPlaces, Mask
from secateur.pipeline import couple, measure, plan_model
from secateur.plans.plan import Plan
from secateur.result import Result


def pair(original: nn.Module, model: nn.Module, plan: Plan, example_inputs: Any) -> Result:
    """Make the result that `prune` would have returned, of a model that was loaded.

    Recovery compares layers of the cut model with those of the uncut one, which a saved folder does not hold.

    Args:
        original: The uncut model, or the one that the last of several cuts started from; not changed.
        model: The cut model, whatever its values.
        plan: What made it: `secateur.write.checkpoint.load_plan(folder)`.
        example_inputs: Inputs of both, as for `prune`.

    Returns:
        A result without a proof, for `recover`; "absorb" refuses it if the model was recovered or trained.

    Raises:
        RequestError: The plan does not lead from the one model to the other, or blocks were dropped.

    Example:
        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> cut = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
        >>> result = pair(net, cut.model, cut.plan, torch.zeros(1, 4))
        >>> better = sc.recover(result, [torch.randn(64, 4)], ["refit"])
        >>> better.errors[0].after < better.errors[0].before
        True
    """
    original, model = unwrap(original), unwrap(model)
    link: Plan | None = plan
    while link is not None:
        if link.dropped:
            raise RequestError(
                f"blocks of the model were dropped: {', '.join(link.dropped[:3])}",
                ["its layers have no partners in the original"],
                do="train it instead",
            )
        link = link.previous
    shapes = dict(tensor_shapes(original))
    made = tensor_shapes(model)
    groups = couple(original, example_inputs, axes="both")
    if shapes == dict(plan.shapes):
        step = plan.model_copy(update={"previous": None})
    elif fingerprint(shapes) == plan.first.fingerprint:
        step = plan_model(original, example_inputs, keep=_kept(groups, plan), axes="both")
    else:
        raise RequestError(
            f"{type(model).__name__} was not cut from this {type(original).__name__}",
            [f"the plan starts from {plan.first.source or plan.first.model}"],
            "pass the very network that was pruned",
        )
    if tensor_shapes(step.apply(original)) != made:
        raise RequestError(
            "the plan does not lead from the original to the cut model",
            do="pass the plan of the cut model's own folder",
        )
    return Result(
        model=model,
        plan=step,
        verdict=None,
        before=cost_of(original, groups),
        after=measure(model, example_inputs),
        groups=groups,
        original=original,
        example_inputs=example_inputs,
    )


def _kept(groups: Groups, plan: Plan) -> dict[str, list[int]]:
    """What several plans in a row leave of each group of the uncut model."""
    kept: dict[str, list[int]] = {}
    for group in groups.prunable:
        for member in group.members:
            mask = plan.masks(member.tensor)[member.dim]
            stays = _stays(mask, DimPlaces(member.expr), group.axis)
            if not stays.all():
                kept[group.name] = np.flatnonzero(stays).tolist()
                break
    return kept


def _stays(mask: Mask, places: DimPlaces, axis: Axis) -> Mask:
    """Whether anything that goes with each position of an axis stays."""
    return mask if places.axis is axis else np.asarray(mask[places.of(axis)].any(1))
