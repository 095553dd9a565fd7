"""Builds the pruned model of this folder from its uncut architecture.

    model = rebuild(MyModel())

Needs torch, safetensors and the class of the model, nothing else. This file is Python: read it before you run
it, as any other code.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from pathlib import Path
from types import CellType, FunctionType
from typing import Any

from safetensors.torch import load_file
from torch import nn

# What follows up to the next line of dashes is of this model.
# ----------------------------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, dict[str, Any]] = {}
"""By module: the integers that are sizes. Dots lead into configs, tuples, lists and dicts."""

METHODS: dict[str, list[dict[str, dict[str, tuple[Any, str]]]]] = {}
"""By module: classes to derive from its own one after the other; by the class that has the methods ("" is the
module's own), the new methods, and the function whose place each takes ("" is the method of that name)."""

# ----------------------------------------------------------------------------------------------------------


def rebuild(model: nn.Module, weights: Path | str = "") -> nn.Module:
    """Cut a model of the uncut architecture to what is saved here, in place, and fill it.

    Args:
        model: The uncut architecture, whatever its tensors hold.
        weights: A file of the pruned model's tensors; empty takes the one beside this file.

    Returns:
        The same model, pruned.
    """
    tensors = load_file(weights or Path(__file__).with_name("model.safetensors"))
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if held.keys() != tensors.keys():
        odd = ", ".join(sorted(held.keys() ^ tensors.keys())[:8])
        raise ValueError(
            f"{type(model).__name__} is not the architecture that was pruned; not in both: {odd}"
        )
    for name, values in ATTRIBUTES.items():
        for path, value in values.items():
            _put(model.get_submodule(name), path.split("."), value)
    for name, steps in METHODS.items():
        for step in steps:
            _derive(model.get_submodule(name), step)
    for name, tensor in tensors.items():  # tied tensors are one object, and stay so
        held[name].data = tensor.to(held[name].device)
    return model


def _put(owner: Any, path: list[str], value: Any) -> Any:
    """Set an attribute, or an item of a tuple, list or dict inside one; others who hold that keep theirs."""
    first, *rest = path
    if isinstance(owner, (tuple, list)):
        parts = list(owner)
        parts[int(first)] = _put(copy.copy(parts[int(first)]), rest, value) if rest else value
        return type(owner)(parts)
    if isinstance(owner, dict):
        inner = _put(copy.copy(owner[first]), rest, value) if rest else value
        return type(owner)({**owner, first: inner})
    setattr(owner, first, _put(copy.copy(getattr(owner, first)), rest, value) if rest else value)
    return owner


def _derive(module: nn.Module, step: dict[str, dict[str, tuple[Any, str]]]) -> None:
    """Let a module have other methods: its class becomes one that is derived from its own."""
    kind = type(module)
    bases: list[type] = [kind]
    members: dict[str, Any] = {"__module__": kind.__module__}
    for owner, methods in step.items():
        base = next(one for one in kind.__mro__ if one.__qualname__ == owner) if owner else kind
        space: dict[str, Any] = {}
        made = {}
        for name, (new, was) in sorted(methods.items(), key=lambda item: bool(item[1][1])):
            old = _find(base, name, was, space)
            space = space or old.__globals__
            inner = inspect.unwrap(old)
            made[name] = _inside(old, inner, _as(inner, new, name))
        if base is kind:
            members.update(made)
        else:
            bases.append(type(base.__name__, (base,), {"__module__": base.__module__, **made}))
    module.__class__ = type(kind.__name__, tuple(bases), members)
    if isinstance(module, nn.MultiheadAttention):  # a hook keeps it off the fused path, which has old widths
        module.register_forward_hook(_nothing)


def _find(base: type, name: str, was: str, space: dict[str, Any]) -> Any:
    """The function whose place another one takes: a method, or "package:name" that the method calls."""
    if not was:
        return inspect.getattr_static(base, name)
    package, _, path = was.partition(":")
    first, *rest = path.split(".")
    held = getattr(importlib.import_module(package), first) if package else space[first]
    for part in rest:
        held = getattr(held, part)
    return held


def _as(old: Any, new: Any, name: str) -> FunctionType:
    """A function that sees what another one sees: its globals, closure and defaults."""
    space = old.__globals__
    if "has_torch_function" in new.__code__.co_names:  # PyTorch's own, which would ask for the old one
        space = {**space, "has_torch_function": lambda _: False}
    cells = dict(zip(old.__code__.co_freevars, old.__closure__ or (), strict=True))
    closure = tuple(cells[one] for one in new.__code__.co_freevars)
    made = FunctionType(new.__code__, space, name, old.__defaults__, closure)
    made.__kwdefaults__ = old.__kwdefaults__
    return made


def _inside(held: Any, old: Any, new: FunctionType) -> Any:
    """A decorated function with a new one in the place of the one inside."""
    if held is old:
        return new
    wrapped = _inside(held.__wrapped__, old, new)
    cells = [one for one in held.__closure__ or () if one.cell_contents is held.__wrapped__]
    if not cells:
        raise TypeError(f"{held.__qualname__} is decorated, and holds no other function")
    closure = tuple(CellType(wrapped) if one in cells else one for one in held.__closure__)
    made = FunctionType(held.__code__, held.__globals__, held.__name__, held.__defaults__, closure)
    made.__kwdefaults__ = held.__kwdefaults__
    made.__dict__.update({**held.__dict__, "__wrapped__": wrapped})
    return made


def _nothing(*_: Any) -> None:
    """A hook that does nothing."""
