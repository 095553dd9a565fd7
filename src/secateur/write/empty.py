"""Architectures on the meta device, on the way to a model with values: what no checkpoint holds.

A file of weights has neither the buffers that a module computes when it is made (the angles of a rotary
embedding) nor the ties between tensors that `accelerate.init_empty_weights` undoes. Such a buffer is computed
anew by making its module once more, from the arguments that it kept as attributes; ties are what the plan
says.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.architecture import unsaved_names
from secateur.capture.shadow import shadow

_PLAIN = (bool, int, float, str, type(None))
_PLACES = ("device", "dtype")
"""Arguments that say where and how, not what; the type is compared."""


def filled(architecture: nn.Module, ties: Mapping[str, str]) -> nn.Module:
    """Give an architecture on the meta device what no checkpoint holds.

    Args:
        architecture: Any module; not changed.
        ties: Further names of tensors, each with the name that comes first.

    Returns:
        The architecture itself if it lacks nothing; else a copy that shares its parameters, with the ties,
        whose unsaved buffers have values where their modules could be made again.

    Example:
        >>> class Angles(nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.width = width
        ...         self.register_buffer("angles", torch.arange(width) / width, persistent=False)
        >>> with torch.device("meta"):
        ...     empty = nn.Sequential(Angles(4))
        >>> filled(empty, {})[0].angles
        tensor([0.0000, 0.2500, 0.5000, 0.7500])
    """
    named = dict(architecture.named_parameters(remove_duplicate=False))
    buffers = dict(architecture.named_buffers(remove_duplicate=False))
    unsaved = [name for name in unsaved_names(architecture) if buffers[name].is_meta]
    apart = {
        name: first
        for name, first in ties.items()
        if name in named and first in named and named[name] is not named[first] and named[name].is_meta
    }
    if not unsaved and not apart:
        return architecture
    made = shadow(architecture)
    for name in dict.fromkeys(name.rpartition(".")[0] for name in unsaved):
        module = made.get_submodule(name)
        for key, value in _buffers_of_twin(module).items():
            module._buffers[key] = value
    for name, first in apart.items():
        owner, _, key = name.rpartition(".")
        made.get_submodule(owner)._parameters[key] = made.get_parameter(first)
    return made


def _buffers_of_twin(module: nn.Module) -> dict[str, Tensor]:
    """The unsaved buffers on the meta device as a twin of the module computes them; empty if there is none.

    A twin is a module of the same class, made from what this one kept of its arguments; whatever else both
    hold of plain values must be the same, and two twins must agree, or nothing is known.
    """
    wanted = {
        name: held
        for name in module._non_persistent_buffers_set
        if (held := module._buffers.get(name)) is not None and held.is_meta
    }
    arguments = _arguments(module)
    if arguments is None:
        return {}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
            twins = [type(module)(**arguments) for _ in range(2)]
    except Exception:  # noqa: BLE001 - a foreign class may want other arguments than it kept
        return {}
    if any(_plain(twin) != _plain(module) for twin in twins):
        return {}
    found: dict[str, Tensor] = {}
    for name, held in wanted.items():
        one, two = (twin._buffers.get(name) for twin in twins)
        if one is None or two is None or one.is_meta or one.shape != held.shape or one.dtype != held.dtype:
            return {}
        if not torch.equal(one, two):
            return {}
        found[name] = one
    return found


def _arguments(module: nn.Module) -> dict[str, Any] | None:
    """The arguments that a module was made from, as it kept them; None if it did not keep one."""
    found: dict[str, Any] = {}
    held = vars(module)
    for name, parameter in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in _PLACES:
            continue
        if name not in held:
            return None  # with its default it may be another module
        found[name] = held[name]
    return found


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training" and isinstance(value, _PLAIN)
    }
