"""Copies of modules, also of those that hold tensors which were computed."""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError

Module = TypeVar("Module", bound=nn.Module)

_REGISTERED = ("_parameters", "_modules")


def copy_module(model: Module, memo: dict[int, Any] | None = None) -> Module:
    """Copy a module and all it holds.

    `copy.deepcopy` refuses tensors that were computed from others with gradients: the weights that
    `torch.nn.utils.prune` and `weight_norm` leave on a module before each run, or activations that a module
    keeps. They are copied without their history.

    Args:
        model: Any module; not changed.
        memo: Copies that are made already, by the identity of what they are copies of.

    Raises:
        CaptureError: Something that the module holds cannot be copied; named, with the cause chained.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> layer.seen = layer(torch.ones(1, 2))
        >>> torch.equal(copy_module(layer).seen, layer.seen)
        True
    """
    known = dict(memo or {})
    try:
        return _copied(model, dict(known))
    except Exception as error:  # noqa: BLE001 - foreign objects may raise anything
        derived = {id(held): held.detach().clone() for _, _, held in _derived(model)}
        failure: Exception = error
    if derived:
        try:
            return _copied(model, {**derived, **known})
        except Exception as error:  # noqa: BLE001 - as above
            failure = error
    raise CaptureError(
        f"the model cannot be copied: {failure}",
        _culprits(model),
        "remove what is named while secateur runs, or give its class a __deepcopy__",
    ) from failure


_FINAL = (int, float, complex, bool, str, bytes, type(None), type, FunctionType, torch.dtype, torch.device)
"""What `copy.deepcopy` hands back as it is."""


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` makes of a module, in less time: most of what modules hold is empty."""
    if id(module) in memo:
        return memo[id(module)]
    kind: Any = type(module)
    is_plain = (
        isinstance(module, nn.Module)
        and not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is object.__getstate__
        and kind.__setstate__ is nn.Module.__setstate__
    )
    if not is_plain:
        return copy.deepcopy(module, memo)
    memo[id(module)] = made = kind.__new__(kind)
    for name, value in vars(module).items():
        if name == "_modules":
            value = type(value)((key, _copied(child, memo)) for key, child in value.items())
        elif isinstance(value, (dict, set, list)) and not value and type(value) in _EMPTY:
            value = type(value)()
        elif type(value) not in _FINAL:
            value = copy.deepcopy(value, memo)
        made.__dict__[name] = value
    return made


_EMPTY = (dict, OrderedDict, set, list)


def _derived(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """The computed tensors that modules hold: module, attribute, tensor."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _REGISTERED:
                for leaf in pytree.tree_leaves(value):
                    if isinstance(leaf, Tensor) and not leaf.is_leaf:
                        yield name, attribute, leaf


def _culprits(model: nn.Module) -> list[str]:
    """The attributes that cannot be copied by themselves."""
    found: list[str] = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _REGISTERED:
                continue
            try:
                copy.deepcopy(value, {id(held): held for held in model.modules()})
            except Exception as error:  # noqa: BLE001 - as above
                found.append(f"{name or 'model'}.{attribute}: {error}"[:200])
    return found
