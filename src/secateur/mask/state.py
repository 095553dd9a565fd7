"""What outlives a model: state dicts with masks, masks that are baked in, and the memory of optimizers."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from secateur.errors import RequestError
from secateur.mask.hook import MASK, ORIG, attach, in_order, masked_tensors, refresh, renew_uncalled
from secateur.mask.targets import Selector, choose, parameters_of


def remove(
    model: nn.Module, select: Selector = None, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Bake masks in: the product becomes the parameter, hook and mask go.

    What is trained afterwards is free to leave zero again, and an optimizer with momentum moves it there
    without any gradient; pass the optimizer and its memory of masked entries is cleared.

    Args:
        model: Changed in place, as `torch.nn.utils.prune.remove` does; the parameter object stays the same.
        select: Which masked tensors, as for `prune`; None for all.
        optimizer: Whose memory of masked entries is cleared.

    Returns:
        The same model.

    Raises:
        RequestError: Nothing is masked.

    Example:
        >>> from secateur.mask import prune
        >>> net = nn.Linear(4, 2)
        >>> _ = prune(net, amount=0.5)
        >>> list(remove(net).state_dict()), int((net.weight == 0).sum())
        (['weight', 'bias'], 4)
    """
    held = list(masked_tensors(model))
    if select is not None:
        chosen = {
            (id(module), parameter)
            for target in choose(model, select, ("weight", "bias"))
            for module, parameter in target.places
        }
        held = [one for one in held if (id(one.module), one.parameter) in chosen]
    if not held:
        raise RequestError("no chosen tensor has a mask", do="mask some first with secateur.mask.prune")
    if optimizer is not None:
        forget_masked(model, optimizer)
    for one in held:
        with in_order(one.module):
            torch_prune.remove(one.module, one.parameter)
        with torch.no_grad():  # a negative weight times zero is -0.0
            parameter = one.module.get_parameter(one.parameter)
            parameter.add_(0.0)
    return model


def forget_masked(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set masked entries to zero in the trained parameters and in all that an optimizer remembers of them.

    Masked entries get no gradient, but momentum and averages from before go on moving them; while the mask is
    there nobody sees it, when it goes they are alive again.

    Args:
        model: Its `weight_orig` are changed in place.
        optimizer: Its state tensors of a parameter's shape are changed in place.
    """
    for one in masked_tensors(model):
        zero_in(one.orig, optimizer, one.mask == 0)


def zero_in(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, where: Bool[Tensor, "..."]) -> None:
    """Set entries of a parameter to zero, and all that an optimizer remembers of them."""
    remembered: Mapping[str, Any] = optimizer.state.get(parameter, {})
    for held in (parameter.detach(), *remembered.values()):
        if isinstance(held, Tensor) and held.shape == where.shape:
            held.masked_fill_(where, 0)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model by parameter name, copied; `prune(model, "custom", masks=...)` takes them.

    Example:
        >>> from secateur.mask import prune
        >>> net, other = nn.Linear(4, 2), nn.Linear(4, 2)
        >>> _ = prune(net, amount=0.5)
        >>> print(prune(other, "custom", masks=masks_of(net)))
        tensor  shape  zeros  of  sparsity
        weight  2x4        4   8    50.00%
        all                4   8    50.00%
    """
    return {one.name: one.mask.clone() for one in masked_tensors(model)}


def mask_zeros(model: nn.Module, select: Selector = None) -> nn.Module:
    """Give tensors a mask where they are zero, so that training leaves the zeros alone.

    Args:
        model: Changed in place; a model that was baked or loaded, for instance.
        select: Which tensors, as for `prune`.

    Returns:
        The same model.
    """
    for target in choose(model, select):
        mask = (target.value != 0).to(target.orig.dtype)
        for module, parameter in target.places:
            attach(module, parameter, mask)
    renew_uncalled(model)
    return model


def baked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without masks: each `x_orig` and `x_mask` become `x`.

    Args:
        state: Of a model that our masks or `torch.nn.utils.prune` are on; not changed.

    Example:
        >>> state = {"weight_orig": torch.tensor([1.0, 2.0]), "weight_mask": torch.tensor([0.0, 1.0])}
        >>> baked(state)
        {'weight': tensor([0., 2.])}
    """
    result = {name: state[key] for name, key in trained_keys(state).items()}
    for name, tensor in result.items():
        if name not in state:
            result[name] = tensor * state[name + MASK].to(tensor.dtype) + 0.0  # no -0.0
    return result


def masked_names(state: Mapping[str, Tensor]) -> list[str]:
    """The parameters of which a state dict holds value and mask.

    Example:
        >>> one = torch.ones(1)
        >>> masked_names({"a.weight_orig": one, "a.weight_mask": one, "b_mask": one})
        ['a.weight']
    """
    found = (name.removesuffix(MASK) for name in state if name.endswith(MASK))
    return [name for name in found if name + ORIG in state]


def put_masks(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Put the masks of a state dict on a model that lacks them, so that it can be loaded.

    Args:
        model: Changed in place.
        state: The state dict.

    Returns:
        The names of parameters that the model does not have.
    """
    modules = dict(model.named_modules())
    there = {one.name for one in masked_tensors(model)}
    lost = []
    for name in masked_names(state):
        path, _, parameter = name.rpartition(".")
        if path not in modules or parameter not in parameters_of(modules[path]):
            lost.append(name)
        elif name not in there:
            attach(modules[path], parameter, state[name + MASK])
    renew_uncalled(model)
    return lost


def trained_keys(state: Mapping[str, Tensor]) -> dict[str, str]:
    """By the name that a tensor has without a mask, the key of what is trained: "weight_orig" for "weight".

    Example:
        >>> trained_keys(nn.utils.prune.identity(nn.Linear(4, 2), "weight").state_dict())
        {'bias': 'bias', 'weight': 'weight_orig'}
    """
    masked = set(masked_names(state))
    return {
        name if (name := key.removesuffix(ORIG)) in masked else key: key
        for key in state
        if key.removesuffix(MASK) not in masked
    }


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict with or without masks into a model with or without masks.

    Masks that the state dict has are put on first, those that it does not have are taken off; then PyTorch
    loads it, strictly, and the products are renewed.

    Args:
        model: Changed in place.
        state: A state dict, of a model that our masks or `torch.nn.utils.prune` are on, or of a plain one.

    Returns:
        The same model.

    Example:
        >>> from secateur.mask import prune
        >>> trained, fresh = nn.Linear(4, 2), nn.Linear(4, 2)
        >>> _ = prune(trained, amount=0.5)
        >>> torch.equal(load_state_dict(fresh, trained.state_dict()).weight, trained.weight)
        True
    """
    for one in list(masked_tensors(model)):
        if one.name + MASK not in state:
            with in_order(one.module):
                torch_prune.remove(one.module, one.parameter)
    lost = put_masks(model, state)
    if lost:
        raise RequestError(
            f"the state dict masks {lost[0]}, and {type(model).__name__} has no such parameter",
            do="build the architecture that it was saved from",
        )
    model.load_state_dict(dict(state))
    refresh(model)
    return model
