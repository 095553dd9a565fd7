"""Shorten: modules leave the list that holds them, those behind them move up, and what counts them follows.

A list of layers is iterated, sliced and enumerated by Python; caches, masks and configs number its layers.
Only where a dropped layer leaves no gap do they all agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn


def renamed(name: str, lists: Mapping[str, Sequence[int]]) -> str | None:
    """The name of a module or tensor after modules have left their lists; None for what left with them.

    Args:
        name: Its qualified name before.
        lists: By the qualified name of each shortened list, the positions that stay.

    Example:
        >>> lists = {"layers": (0, 2)}
        >>> [renamed(name, lists) for name in ("layers.1.bias", "layers.2.bias", "head.bias")]
        [None, 'layers.1.bias', 'head.bias']
    """
    before, parts = name.split("."), name.split(".")
    for at, part in enumerate(before):
        kept = lists.get(".".join(before[:at]))
        if kept is None or not part.isdecimal():
            continue
        if int(part) not in kept:
            return None
        parts[at] = str(kept.index(int(part)))
    return ".".join(parts)


def shorten(model: nn.Module, lists: Mapping[str, Sequence[int]]) -> None:
    """Take modules out of lists, in place.

    Args:
        model: A copy; changed.
        lists: By qualified name, the positions that stay. Names of one list must agree.
    """
    held = {name: model.get_submodule(name) for name in lists}
    done: set[int] = set()
    for name, container in held.items():
        if id(container) not in done:
            done.add(id(container))
            children = list(container._modules.values())
            kept = ((str(at), children[old]) for at, old in enumerate(lists[name]))
            container._modules = type(container._modules)(kept)


def renumber(model: nn.Module, numbers: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what numbers and counts layers, in place: objects that several modules hold stay shared.

    Args:
        model: A copy; changed.
        numbers: By module, the attributes; dots lead into configs and dictionaries.
    """
    for name, values in numbers.items():
        module = model.get_submodule(name)
        for path, value in values.items():
            put(module, path.split("."), value)


def put(held: Any, path: Sequence[str], value: Any) -> None:
    """Set an attribute, or a field of an object or dictionary inside one, in place.

    Example:
        >>> module = nn.Identity()
        >>> module.config = {"text": {"layers": ("full", "full")}}
        >>> put(module, ["config", "text", "layers"], ["full"])
        >>> module.config
        {'text': {'layers': ('full',)}}
    """
    for name in path[:-1]:
        held = held[name] if isinstance(held, dict) else vars(held)[name]
    fields = held if isinstance(held, dict) else vars(held)
    if isinstance(fields.get(path[-1]), tuple):
        value = tuple(value)
    fields[path[-1]] = value


def left_out(names: Iterable[str], lists: Mapping[str, Sequence[int]]) -> set[str]:
    """Those of some modules that leave their list."""
    return {name for name in names if renamed(name, lists) is None}
