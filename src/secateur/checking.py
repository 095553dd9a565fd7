"""Check: prove a plan on the model that it was made for."""

import math
from collections.abc import Collection
from typing import Any

from torch import nn

from secateur.capture.meta import require_values
from secateur.capture.state import returned
from secateur.capture.unwrap import unwrap
from secateur.coupling import Recorded, on_any_substrate
from secateur.depth import check_dropped
from secateur.errors import CheckpointError
from secateur.plans.plan import Plan
from secateur.proof import Verdict, compare_records, find_varying, kept_by, verify


def check(
    model: nn.Module,
    plan: Plan,
    example_inputs: Any,
    *,
    state: Collection[str] | None = None,
    outputs: Collection[str | int] | None = None,
    seed: int = 0,
) -> Verdict:
    """Prove by shape and by number that a plan cuts a model without changing what it computes.

    The plan is applied to the model's own values, so it does not matter whether a model that it made was
    trained since. A plan that cuts a cut model further is proven step by step, from the uncut one.

    Args:
        model: The architecture that the plan was made for, uncut or cut by some of its steps; not changed.
        plan: What `prune`, `plan` or `drop_blocks` made, or a saved folder holds.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        state: Names of what the model returns only for its next call, as for `secateur.couple`.
        outputs: What counts of what it returns, as for `secateur.couple`.
        seed: For the random inputs and parameters.

    Returns:
        The verdict. One that failed says where the cut model does something else, in `failure`.

    Raises:
        CheckpointError: The plan was made for another architecture.
        CaptureError: The model cannot be run on these inputs.

    Example:
        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> plan = sc.prune(net, torch.zeros(1, 4), ratio=0.5).plan
        >>> check(net, plan, torch.zeros(1, 4)).exact
        True
    """
    model = unwrap(model)
    require_values(model)
    plan = plan.rest_for(model)
    if plan.previous is not None:
        verdict = check(model, plan.previous, example_inputs, state=state, outputs=outputs, seed=seed)
        if not verdict.passed:
            return verdict
        model = plan.previous.apply(model)
        plan = plan.model_copy(update={"previous": None})
    plan.require_fit(model)
    if plan.dropped:
        return check_dropped(model, example_inputs, plan, seed)
    wanted = returned(state, outputs)
    return on_any_substrate(
        lambda substrate: _check_on(Recorded.of(model, example_inputs, substrate, wanted), plan, seed)
    )


def _check_on(recorded: Recorded, plan: Plan, seed: int) -> Verdict:
    groups = recorded.couple()
    missing = [group.name for group in plan.groups if group.name not in groups.by_name]
    if missing:
        raise CheckpointError(
            f"the plan cuts {missing[0]}, which these inputs do not reach",
            do="pass example inputs like those that the plan was made with",
        )
    cut = plan.apply(recorded.model)
    graph, failure = recorded.record(cut)
    deviation = compare_records(groups, kept_by(plan, groups), graph, failure, find_varying(recorded, seed))
    if deviation is not None and recorded.graph.substrate != "real":
        nodes = len(groups.graph.nodes)
        return Verdict(math.inf, 0.0, nodes=nodes, failure=str(deviation), node=deviation.node)
    return verify(recorded.model, cut, recorded.inputs, groups, plan, seed, recorded)
