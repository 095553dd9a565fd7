"""Carry an optimizer over to a cut model, so that training goes on where it was.

Momentum, second moments and whatever else has the shape of its parameter lose the positions that the
parameter lost. The steps of SGD, Adam and the like treat every element by itself, so the next step at a kept
position is the one that the masked original would have made.
"""

import copy
import inspect
import itertools
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from secateur.cut.slicing import slice_tensor
from secateur.errors import CarryWarning, RequestError
from secateur.graph.keep import Mask
from secateur.result import Result

_OF_GROUPS = {"params", "param_names"}


def carry(optimizer: Optimizer, result: Result) -> Optimizer:
    """Make an optimizer for a cut model that goes on from the original's.

    The groups stay in number and order, with their options, so that schedulers still fit; a group whose
    parameters all went with dropped blocks stays, empty. State of a parameter that cannot be cut (it has some
    other shape, or dims of one size of which it is not clear which it follows) starts anew, with a
    `CarryWarning`. To go on with a scheduler, give it the new optimizer: `scheduler.optimizer = carried`.

    Args:
        optimizer: Trains the model that was given to `prune` or `drop_blocks`; not changed.
        result: What they returned.

    Returns:
        A new optimizer of the same class over the parameters of `result.model`.

    Raises:
        RequestError: It trains some other model, or cannot be made from its own options.

    Example:
        >>> import torch, secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> result = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
        >>> carried = carry(optimizer, result)
        >>> carried.state[result.model[0].weight]["momentum_buffer"].shape
        torch.Size([4, 4])
    """
    if not isinstance(optimizer, Optimizer):
        raise RequestError(
            f"optimizer is {type(optimizer).__name__}, not a torch.optim.Optimizer",
            do="pass the optimizer itself, without its wrapper",
        )
    with torch.inference_mode(False):  # tensors made in a caller's inference mode could not be trained
        return _carry(optimizer, _heirs(optimizer, result))


def _carry(optimizer: Optimizer, heirs: Mapping[int, "_Heir"]) -> Optimizer:
    carried = _like(optimizer, heirs)
    for old, state in optimizer.state.items():
        if not isinstance(old, Tensor):
            carried.state[old] = copy.deepcopy(state)
        elif id(old) in heirs:
            own = _cut_state(state, heirs[id(old)])
            if own is not None:
                carried.state[heirs[id(old)].parameter] = own
    return carried


@dataclass(frozen=True, eq=False)
class _Heir:
    """What became of a parameter.

    Attributes:
        parameter: The one of the cut model.
        name: Its qualified name.
        shape: The shape of the original's.
        masks: Which positions stay, for each dim.
    """

    parameter: nn.Parameter
    name: str
    shape: tuple[int, ...]
    masks: Sequence[Mask]


def _heirs(optimizer: Optimizer, result: Result) -> dict[int, _Heir]:
    """What became of each parameter of the optimizer, by its identity; none for those of dropped blocks."""
    names: dict[int, list[str]] = {}
    for name, parameter in result.original.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    after = dict(result.model.named_parameters(remove_duplicate=False))
    plan = result.plan.model_copy(update={"previous": None})  # what was cut before is cut of both
    heirs: dict[int, _Heir] = {}
    for at, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            own = names.get(id(parameter))
            if own is None:
                raise RequestError(
                    f"group {at} of the optimizer trains a parameter of shape {list(parameter.shape)} "
                    f"that the original {type(result.original).__name__} does not have",
                    do="pass the optimizer of the model that was given to prune",
                )
            left = [(name, here) for name in own if (here := plan.renamed(name)) in after]
            if left:
                name, here = left[0]
                assert here is not None, "it is in the model of the result"
                heirs[id(parameter)] = _Heir(after[here], here, tuple(parameter.shape), plan.masks(name))
                _require_shape(heirs[id(parameter)])
            elif not all(map(plan.drops, own)):
                raise RequestError(
                    f"the model of the result has no parameter {own[0]}", do="carry before you change it"
                )
    _warn_of_new(after, {plan.renamed(name) for own in names.values() for name in own})
    return heirs


def _require_shape(heir: _Heir) -> None:
    expected = [int(mask.sum()) for mask in heir.masks]
    if expected != list(heir.parameter.shape):
        raise RequestError(
            f"{heir.name} is {list(heir.parameter.shape)} in the model of the result, "
            f"the plan leaves {expected} of {list(heir.shape)}",
            do="carry before you change the model",
        )


def _warn_of_new(after: Iterable[str], before: Collection[str | None]) -> None:
    """A recovery step may have given a layer a bias that it did not have."""
    new = [name for name in after if name not in before]
    if new:
        warnings.warn(
            f"no group of the optimizer trains {', '.join(new)}, which the original does not have; "
            "add it with add_param_group",
            CarryWarning,
            stacklevel=4,
        )


def _like(optimizer: Optimizer, heirs: Mapping[int, _Heir]) -> Optimizer:
    """An optimizer of the same class, options and hooks over other parameters, without state."""
    kind = type(optimizer)
    known = inspect.signature(kind.__init__).parameters
    options = {name: copy.deepcopy(held) for name, held in optimizer.defaults.items() if name in known}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        kept = [at for at, parameter in enumerate(group["params"]) if id(parameter) in heirs]
        params: list[Any] = [heirs[id(group["params"][at])].parameter for at in kept]
        own = {name: copy.deepcopy(held) for name, held in group.items() if name not in _OF_GROUPS}
        if "param_names" in group:
            params = [(group["param_names"][at], held) for at, held in zip(kept, params, strict=True)]
            own["param_names"] = []  # an empty group must have the key, too
        groups.append({"params": params, **own})
    try:
        carried = kind(groups, **options)
    except Exception as error:
        raise RequestError(
            f"cannot make a {kind.__name__} from the options of the given one: {error}",
            [f"options: {', '.join(options)}"],
            "make it yourself over result.model.parameters()",
        ) from error
    carried.defaults = copy.deepcopy(optimizer.defaults)
    for name, held in vars(optimizer).items():
        if name.startswith("_optimizer_") and name.endswith("hooks"):
            setattr(carried, name, copy.copy(held))
    return carried


def _cut_state(state: Mapping[str, Any], heir: _Heir) -> dict[str, Any] | None:
    """The state of a parameter at the positions that stay; None, with a warning, if it cannot be had."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        cut = _cut_value(value, heir.shape, heir.masks)
        if cut is _UNCLEAR:
            what = f"shape {list(value.shape)}" if isinstance(value, Tensor) else "several tensors"
            warnings.warn(
                f"the optimizer's state of {heir.name} starts anew: it is not clear how '{key}' ({what}) "
                f"follows the parameter of shape {list(heir.shape)}",
                CarryWarning,
                stacklevel=4,
            )
            return None
        found[key] = cut
    return found


_UNCLEAR = object()


def _cut_value(value: Any, shape: tuple[int, ...], masks: Sequence[Mask]) -> Any:
    """One entry of a state at the positions that stay; `_UNCLEAR` if it does not say how."""
    if not isinstance(value, Tensor):
        held = pytree.tree_leaves(value)
        return _UNCLEAR if any(isinstance(leaf, Tensor) for leaf in held) else copy.deepcopy(value)
    if value.shape != shape and value.numel() == 1:
        return value.clone()
    choices = {tuple(mask.tobytes() for mask in chosen): chosen for chosen in _choices(value, shape, masks)}
    if len(choices) != 1:
        return _UNCLEAR
    (chosen,) = choices.values()
    if not value.is_floating_point() and not all(mask.all() for mask in chosen):
        return _UNCLEAR  # a code, such as of 8-bit optimizers: its blocks do not follow the positions
    return slice_tensor(value, chosen)


def _choices(value: Tensor, shape: tuple[int, ...], masks: Sequence[Mask]) -> list[list[Mask]]:
    """The ways in which the dims of a state can be dims of its parameter: all, one, or some left out."""
    sizes = tuple(value.shape)
    if sizes == shape:
        return [list(masks)]
    one = np.ones(1, dtype=bool)
    if len(sizes) == len(shape):
        fits = all(size in (1, whole) for size, whole in zip(sizes, shape, strict=True))
        masked = [mask if size == len(mask) else one for size, mask in zip(sizes, masks, strict=True)]
        return [masked] if fits else []
    subsets = itertools.combinations(range(len(shape)), len(sizes))
    return [[masks[at] for at in dims] for dims in subsets if tuple(shape[at] for at in dims) == sizes]
