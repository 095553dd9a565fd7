"""The bridge from masks to cuts: channels that are dead in a masked model are removed for real, exactly."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.capture.meta import placed, require_values
from secateur.capture.unwrap import unwrap
from secateur.coupling import Groups
from secateur.errors import CheckError, CutError, RequestError, SecateurError
from secateur.mask.dead import find_dead
from secateur.pipeline import couple, plan_model
from secateur.plans.plan import Plan, Request
from secateur.proof import Proof, Reference, kept_by
from secateur.proof.draws import run


def plan_from_masks(
    model: nn.Module, example_inputs: Any, *, axes: str = "heads", check: bool = True, seed: int = 0
) -> Plan:
    """Plan the cut of every channel that masks have made superfluous.

    A channel is superfluous if wherever it is summed over it, or what reads it, is zero for every input: its
    weights and bias are masked and nothing in between (a batch norm's shift, a sigmoid) makes it a constant,
    or all that reads it is masked. So the cut model computes what the masked one does, to the last bit of
    rounding, in eval mode. Zeros count whether a mask makes them or not.

    Args:
        model: A model with masks, ours or those of `torch.nn.utils.prune`, or with zeros; not changed. The
            plan is for this very model: of a masked one it cuts weights and masks alike, and the result goes
            on being masked; `mask.remove` first makes a plan for the plain architecture.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads", "widths" or
            "both".
        check: Run both models in float64 on random inputs and compare them at every operator.
        seed: For the random numbers.

    Returns:
        The plan.

    Raises:
        RequestError: No channel is superfluous.
        CheckError: The cut model computes something else.

    Example:
        >>> import torch, secateur as sc
        >>> net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
        >>> _ = sc.mask.prune(net, "l2", structure="structured", amount=0.5, select="0")
        >>> plan = plan_from_masks(net, x)
        >>> small = plan.apply(net)
        >>> small[0].out_features, torch.allclose(small(x), net(x), atol=1e-6)
        (4, True)
    """
    model = unwrap(model)
    require_values(model)
    model, example_inputs = placed(model, example_inputs)
    groups = couple(model, example_inputs, axes=axes)
    dead = find_dead(model, example_inputs, groups, seed)
    if not dead:
        raise RequestError(
            "no channel of the model is dead",
            [
                "a channel is dead if its weights and bias are zero and no batch norm or activation makes it "
                "a constant, or if all that reads it is zero",
                f"{len(groups.prunable)} groups were looked at",
            ],
            "mask whole channels: structure='structured', with their bias and batch norm",
        )
    keep = {
        name: [at for at in range(groups[name].size) if at not in set(gone)] for name, gone in dead.items()
    }
    plan = _plan(model, example_inputs, groups, keep, axes, check=check, seed=seed)
    return plan.model_copy(update={"requested": Request(kind="the channels that masks make superfluous")})


def _plan(
    model: nn.Module,
    example_inputs: Any,
    groups: Groups,
    keep: Mapping[str, Sequence[int]],
    axes: str,
    *,
    check: bool,
    seed: int,
) -> Plan:
    """Plan the cut and compare; groups that the model's code cannot follow are left out.

    Raises:
        SecateurError: What was wrong with the last group that was tried, if none is left.
    """

    def tried(names: Sequence[str]) -> Plan:
        asked = {name: keep[name] for name in names}
        plan = plan_model(model, example_inputs, keep=asked, axes=axes, seed=seed)
        if check:
            reference = Reference(groups, kept_by(plan, groups), on_step=run)
            verdict = Proof(model, plan, reference, example_inputs, seed, styles=()).verdict(
                plan.apply(model)
            )
            if not verdict.passed:
                raise CheckError(
                    f"the cut model differs from the masked one: {verdict.failure}",
                    do="report this model; nothing was changed",
                )
        return plan

    try:
        return tried(list(keep))
    except (RequestError, CheckError, CutError) as error:
        failure: SecateurError = error
    possible: list[str] = []
    plan = None
    for name in keep:
        try:
            plan = tried([*possible, name])
        except (RequestError, CheckError, CutError) as error:
            failure = error
        else:
            possible.append(name)
    if plan is None:
        raise failure
    return plan
