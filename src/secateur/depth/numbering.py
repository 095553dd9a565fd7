"""Numbering: what numbers and counts the layers of a list that becomes shorter, and what it says then.

Caches, masks and saved configs know layers by their numbers. What must change is found by experiment rather
than by the names of architectures:

* an attribute that holds 0, 1, 2, ... (or 1, 2, 3, ...) in the layers of a list is their number;
* a model that is built from a config is built from others until it is the model without those layers
  (`depth/rebuilding.py`): the fields that differ then are the ones;
* else an integer named as a count of layers (`num_layers`) that is the length of the list is its length, and
  a list named as facts of layers (`layer_types`) of that length loses those of the layers that go.

What a layer is (its kind of attention, a scale) stays as it was. Where the config would then describe another
layer, that is told: a model saved by its config would be loaded as another one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from secateur.configs.maker import Maker
from secateur.configs.records import facts_of, leaves_of, records_of
from secateur.cut.shorten import renamed
from secateur.cut.skip import drop
from secateur.depth.rebuilding import Shortened, differing, rebuild

Numbers: TypeAlias = dict[str, dict[str, Any]]
"""By module of the shortened model, attributes and fields with what they become."""

_NUMBER = re.compile(r"(^|_)(idx|index|id|number|num|no|position)$", re.IGNORECASE)
_COUNT = re.compile(r"(layers?|blocks?|depth)$", re.IGNORECASE)
_OF_LAYERS = re.compile(r"(^|_)(layers?|blocks?)(_|$)", re.IGNORECASE)
_SIDES = {"encoder", "decoder", "text", "vision", "audio"}
_SHOWN = 3


@dataclass(frozen=True)
class Numbering:
    """What a shortened model must say of itself.

    Attributes:
        numbers: As `Numbers`.
        notes: What its config cannot say, as words.
    """

    numbers: Numbers = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def number(model: nn.Module, lists: Mapping[str, Sequence[int]]) -> Numbering:
    """Find what a model must say of itself once some of its lists are shorter.

    Args:
        model: The original; not changed.
        lists: By the name of each list that becomes shorter, the positions that stay.
    """
    numbers = _positions(model, lists)
    notes: list[str] = []
    open_lists = dict(lists)
    for name, own in _by_owner(model, lists).items():
        owner = model.get_submodule(name)
        maker = Maker.of(owner)
        found = None if maker is None else _from_config(maker, owner, own)
        if found is None:
            continue
        here = renamed(name, lists)
        for inner, values in found.numbers.items():
            numbers.setdefault(_joined(here or "", inner), {}).update(values)
        notes += found.notes
        for one in own:
            open_lists.pop(_joined(name, one.name), None)
    for listed in open_lists:
        for inner, values in _by_names(model, lists, listed).items():
            numbers.setdefault(inner, {}).update(values)
    for listed, kept in lists.items():
        numbers.setdefault("", {}).update(_aligned(model, listed, kept))
    return Numbering({name: values for name, values in numbers.items() if values}, tuple(notes))


def leaving(model: nn.Module, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The lists that modules can leave so that those behind them move up.

    Args:
        model: The original; not changed.
        names: The modules that go.

    Returns:
        By every name of each list, the positions that stay.

    Example:
        >>> leaving(nn.Sequential(nn.ModuleList([nn.ReLU(), nn.Tanh(), nn.ELU()])), ["0.1"])
        {'0': (0, 2)}
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    known: dict[int, set[str]] = {}
    for name, module in modules.items():
        known.setdefault(id(module), set()).add(name)
    gone: dict[str, set[int]] = {}
    for name in names:
        owner, _, at = name.rpartition(".")
        aliases = known[id(modules[owner])]
        is_only_there = known[id(modules[name])] == {_joined(alias, at) for alias in aliases}
        if isinstance(modules[owner], nn.ModuleList) and is_only_there:
            for alias in aliases:
                gone.setdefault(alias, set()).add(int(at))
    return {
        name: tuple(at for at in range(len(modules[name]._modules)) if at not in left)
        for name, left in gone.items()
    }


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def _by_owner(model: nn.Module, lists: Mapping[str, Sequence[int]]) -> dict[str, list[Shortened]]:
    """The lists below the outermost module around them that holds a config."""
    found: dict[str, list[Shortened]] = {}
    for name, kept in lists.items():
        for owner in _around(name):
            if any(records_of(model.get_submodule(owner))):
                size = len(model.get_submodule(name)._modules)
                own = name[len(owner) + 1 :] if owner else name
                found.setdefault(owner, []).append(Shortened(own, size, tuple(kept)))
                break
    return found


def _around(name: str) -> list[str]:
    """The modules around one, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))]


def _positions(model: nn.Module, lists: Mapping[str, Sequence[int]]) -> Numbers:
    """The attributes that number the layers of a list."""
    numbers: Numbers = {}
    for name, kept in lists.items():
        held: dict[tuple[str, str], dict[int, int]] = {}
        for at, layer in enumerate(model.get_submodule(name)._modules.values()):
            assert layer is not None, "a list holds modules"
            for inner, module in layer.named_modules():
                for attribute, value in vars(module).items():
                    if type(value) is int:
                        held.setdefault((inner, attribute), {})[at] = value
        for (inner, attribute), values in held.items():
            firsts = {value - at for at, value in values.items()}
            is_named = bool(_NUMBER.search(attribute))
            if len(firsts) > 1 or not firsts <= {0, 1} or not (len(values) > 2 or is_named):
                continue
            for new, old in enumerate(kept):
                if old in values and new != old:
                    module = renamed(_joined(name, str(old), inner), lists)
                    assert module is not None, "it stays"
                    numbers.setdefault(module, {})[attribute] = values[old] - old + new
    return numbers


def _from_config(maker: Maker, owner: nn.Module, lists: Sequence[Shortened]) -> Numbering | None:
    """What a config says of the shortened model that is built from it; None where none gives it."""
    whole = maker.make({})
    assert whole is not None, "it was built before"
    kept = {one.name: one.kept for one in lists}
    gone = [_joined(one.name, str(at)) for one in lists for at in range(one.size) if at not in one.kept]
    goal = drop(whole, gone, {}, kept, _positions(whole, kept))
    made = rebuild(maker, goal, lists)
    if made is None:
        return None
    origin = {renamed(name, kept): module for name, module in owner.named_modules()}
    numbers = _changed_fields(origin, goal, made)
    wanted, found = facts_of(goal), facts_of(made)
    others, following = differing(wanted, found, lists)
    for name, attribute in following:
        if vars(origin[name]).get(attribute) == wanted[name, attribute]:
            numbers.setdefault(name, {})[attribute] = found[name, attribute]
    told = [f"{_joined(*key)} {found.get(key)} instead of {wanted.get(key)}" for key in others]
    return Numbering(numbers, (_told(told),) if told else ())


def _changed_fields(origin: Mapping[str | None, nn.Module], goal: nn.Module, made: nn.Module) -> Numbers:
    """The fields of configs that are otherwise in a model built anew; where the user's are as they were."""
    numbers: Numbers = {}
    seen: set[tuple[int, str]] = set()
    theirs = dict(made.named_modules())
    for name, module in goal.named_modules():
        for attribute, record in records_of(module) if name in theirs else ():
            held = vars(origin[name]).get(attribute)
            after = dict(leaves_of(vars(theirs[name]).get(attribute) or {}))
            ours = dict(leaves_of(held or {}))
            for path, leaf in leaves_of(record):
                key = id(held), ".".join(path)
                if path in after and after[path] != leaf and ours.get(path) == leaf and key not in seen:
                    seen.add(key)
                    numbers.setdefault(name, {})[".".join((attribute, *path))] = after[path]
    return numbers


def _aligned(model: nn.Module, listed: str, kept: Sequence[int]) -> dict[str, Any]:
    """Pairs of a decoder layer's number and a head's, from which a speech model tells when words are said."""
    found: dict[str, Any] = {}
    for attribute, record in records_of(model) if "decoder" in listed else ():
        for path, leaf in leaves_of(record):
            if path[-1] == "alignment_heads" and leaf:
                pairs = [[kept.index(layer), head] for layer, head in leaf if layer in kept]
                found[".".join((attribute, *path))] = pairs
    return found


def _told(others: Sequence[str]) -> str:
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return (
        "a model built anew from its config, as by from_pretrained, differs, and sc.load does not: "
        f"{', '.join(others[:_SHOWN])}{more}"
    )


def _by_names(model: nn.Module, lists: Mapping[str, Sequence[int]], listed: str) -> Numbers:
    """Counts and facts of layers by what they are called, in modules around a list and in their configs."""
    numbers: Numbers = {}
    size, kept = len(model.get_submodule(listed)._modules), lists[listed]
    seen: set[tuple[int, str]] = set()
    for name, module in _holders(model, listed):
        after = renamed(name, lists)
        if after is None:
            continue
        fields: list[tuple[tuple[str, ...], Any]] = []
        if not name.startswith(f"{listed}."):
            fields += (((attribute,), value) for attribute, value in vars(module).items())
        for attribute, record in records_of(module):
            fields += (((attribute, *path), leaf) for path, leaf in leaves_of(record))
        for path, leaf in fields:
            holder = vars(module)[path[0]] if len(path) > 1 else module
            changed = _shortened(path, leaf, listed, size, kept)
            if changed is not None and (id(holder), ".".join(path)) not in seen:
                seen.add((id(holder), ".".join(path)))
                numbers.setdefault(after, {})[".".join(path)] = changed
    return numbers


def _holders(model: nn.Module, listed: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules around a list, up to the next list around them, and those in its layers."""
    for name in reversed(_around(listed)):
        module = model.get_submodule(name)
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            break
        yield name, module
    for name, module in model.get_submodule(listed).named_modules(prefix=listed):
        if name != listed:
            yield name, module


def _shortened(path: Sequence[str], leaf: Any, listed: str, size: int, kept: Sequence[int]) -> Any:
    """What a field named as a count or as facts of layers becomes; None if it is none."""
    sides = [{side for side in _SIDES if side in word} for word in (".".join(path), listed)]
    if all(sides) and not sides[0] & sides[1]:
        return None
    if type(leaf) is int and leaf == size and _COUNT.search(path[-1]):
        return len(kept)
    if isinstance(leaf, (list, tuple)) and len(leaf) == size and _OF_LAYERS.search(path[-1]):
        return [leaf[at] for at in kept]
    return None
