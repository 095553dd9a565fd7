"""What was changed of a model after it was cut, and what that makes of its plan.

A head of another number of classes is a dim that no cut touched: the plan then leads from the architecture
that has it. Anything else, such as a layer that came or went, leaves a model that no plan makes.
"""

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
from torch import nn

from secateur.architecture import fingerprint, tensor_shapes, unsaved_names
from secateur.errors import RequestError
from secateur.plans.plan import Plan


def plan_as_it_is(plan: Plan, model: nn.Module) -> Plan:
    """The plan that makes a model as it is now.

    Args:
        plan: What the model was cut by.
        model: The cut model; it may have been trained, and sizes that no group holds may be others.

    Raises:
        RequestError: The model was changed in another way, so that no plan makes it.

    Example:
        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
        >>> result.model[2] = nn.Linear(4, 10)
        >>> plan_as_it_is(result.plan, result.model).shapes["2.weight"]
        (10, 8)
    """
    return _leading_to(tensor_shapes(model), set(unsaved_names(model)), plan)


def _leading_to(wanted: Mapping[str, tuple[int, ...]], loose: Collection[str], plan: Plan) -> Plan:
    """The plan that ends with tensors of some shapes; those of some names do not count."""
    step = plan.model_copy(update={"previous": None})
    here = {name: after for name in plan.shapes if (after := step.renamed(name)) is not None}
    changed = {name: after for name, after in here.items() if _ends(step, name) != wanted.get(after)}
    came = [name for name in wanted if name not in set(here.values()) and name not in loose]
    gone = [after for name, after in changed.items() if after not in wanted and name not in plan.unsaved]
    if came or gone:
        what = f"a tensor {came[0]} that its plan does not know" if came else f"no tensor {gone[0]} any more"
        raise _altered(plan, f"it holds {what}")
    shapes, tensors, params = dict(plan.shapes), dict(plan.tensors), plan.params
    for name, after in changed.items():
        if name in plan.unsaved or after in loose:
            continue
        old, now = plan.tensors.get(name, plan.shapes[name]), wanted[after]
        made = _ends(step, name)
        is_whole = len(old) == len(now) and all(
            isinstance(spec, int) or size == was for spec, size, was in zip(old, now, made, strict=True)
        )
        if not is_whole:
            raise _altered(plan, f"its {after} is {list(now)}, the plan leaves {list(made)}")
        free = [isinstance(spec, int) for spec in old]
        shapes[name] = tuple(np.where(free, now, plan.shapes[name]).tolist())
        params += 0 if name in plan.ties else prod(shapes[name]) - prod(plan.shapes[name])
        if name in tensors:
            tensors[name] = tuple(
                size if isinstance(spec, int) else spec for size, spec in zip(now, old, strict=True)
            )
    previous = None if plan.previous is None else _leading_to(shapes, set(plan.unsaved), plan.previous)
    if shapes == dict(plan.shapes) and previous == plan.previous:
        return plan
    update = {"shapes": shapes, "tensors": tensors, "params": params, "previous": previous}
    return plan.model_copy(update=update | {"fingerprint": fingerprint(shapes)})


def _ends(step: Plan, name: str) -> tuple[int, ...]:
    """The shape that a plan alone leaves of a tensor."""
    if name not in step.tensors:
        return step.shapes[name]
    return tuple(int(mask.sum()) for mask in step.masks(name))


def _altered(plan: Plan, what: str) -> RequestError:
    return RequestError(
        f"the {plan.model} was changed after it was cut: {what}",
        ["its plan would not make the model that is saved, so it could not be loaded"],
        "change the uncut model and cut that, or save its state dict alone",
    )
