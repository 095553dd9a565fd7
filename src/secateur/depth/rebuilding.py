"""Rebuilding: which config a model is built from without some of its layers, found by building it.

A trial costs as much as building the model on the meta device. First the field that is the number of layers,
together with the lists that are named as facts of layers; then, while the model built is not yet the one
wanted, any field that may slice, renumber or bound layers. A trial stays if fewer facts then differ.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from secateur.configs.maker import Maker
from secateur.configs.records import Facts, Path, facts_of, leaves_of

_OF_LAYERS = re.compile(r"(layer|block)", re.IGNORECASE)
_TRIALS = 40
"""Configs that are tried beyond the number of layers."""


@dataclass(frozen=True)
class Shortened:
    """A list that becomes shorter.

    Attributes:
        name: Its qualified name.
        size: How many modules it holds.
        kept: The positions that stay.
    """

    name: str
    size: int
    kept: tuple[int, ...]


def rebuild(maker: Maker, goal: nn.Module, lists: Sequence[Shortened]) -> nn.Module | None:
    """Build the model that comes nearest to one whose lists are shorter.

    Args:
        maker: Builds the model.
        goal: The model wanted, itself made by the maker and then shortened.
        lists: What was shortened.

    Returns:
        The model; None if no config gives its lists their lengths.
    """
    search = _Search(maker, facts_of(goal), lists)
    for at, one in enumerate(lists):
        whole = {other.name: other.size for other in lists[at + 1 :]}
        wanted = {other.name: len(other.kept) for other in lists[: at + 1]} | whole
        search.take_first(_lengths(maker.config, one), wanted)
    known = dict(search.edits)
    for one in lists:
        search.take_better(edit for leaf in leaves_of(maker.config) for edit in _variants(*leaf, one))
    if search.differing:  # what makes it more alike and not the same says something else
        search.edits = known
    made = maker.make(search.edits)
    if made is None or not _has_lengths(made, {one.name: len(one.kept) for one in lists}):
        return None
    return made


class _Search:
    """Edits of a config, and how many facts of the model built from it differ from those wanted."""

    def __init__(self, maker: Maker, goal: Facts, lists: Sequence[Shortened]) -> None:
        self.maker, self.goal, self.lists = maker, goal, lists
        self.edits: dict[Path, Any] = {}
        self.differing = self._differing(maker.make({}))
        self.left = _TRIALS

    def _differing(self, made: nn.Module | None) -> float:
        return math.inf if made is None else len(differing(self.goal, facts_of(made), self.lists)[0])

    def take_first(self, trials: Iterator[dict[Path, Any]], wanted: Mapping[str, int]) -> None:
        """Take the first edits that give all lists their lengths; none if they have them."""
        for edits in chain([{}], trials):
            made = self.maker.make({**self.edits, **edits})
            if made is not None and _has_lengths(made, wanted):
                self.edits.update(edits)
                self.differing = self._differing(made)
                return

    def take_better(self, trials: Iterator[dict[Path, Any]]) -> None:
        """Take all edits after which fewer facts differ."""
        for edits in trials:
            if not self.differing or not self.left:
                return
            self.left -= 1
            found = self._differing(self.maker.make({**self.edits, **edits}))
            if found < self.differing:
                self.edits.update(edits)
                self.differing = found


def differing(
    goal: Facts, found: Facts, lists: Sequence[Shortened]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The facts that are otherwise in a model that was built; first those that are, then those that follow.

    What follows are the lengths of the lists and the lists of facts of their layers.
    """
    others: list[tuple[str, str]] = []
    following: list[tuple[str, str]] = []
    for key in {**goal, **found}:
        if key not in goal or key not in found or goal[key] != found[key]:
            follows = any(_follows(key[0], goal.get(key), found.get(key), one) for one in lists)
            (following if follows else others).append(key)
    return others, following


def _follows(module: str, one: Any, two: Any, held: Shortened) -> bool:
    if isinstance(one, (list, tuple)) and len(one) == held.size:
        return isinstance(two, (list, tuple)) and list(two) == _taken(one, held.kept)
    is_layer = module.startswith(f"{held.name}.")
    return not is_layer and type(one) is int and (one, two) == (held.size, len(held.kept))


def _has_lengths(model: nn.Module, wanted: Mapping[str, int]) -> bool:
    modules = dict(model.named_modules())
    return all(name in modules and len(modules[name]._modules) == size for name, size in wanted.items())


def _lengths(config: Any, one: Shortened) -> Iterator[dict[Path, Any]]:
    """Edits of each field that may be the length of a list; those named so come first.

    Lists named as facts of layers are shortened with it, as many configs demand, if they can be.
    """
    leaves = list(leaves_of(config))
    facts = {
        path: _taken(leaf, one.kept)
        for path, leaf in leaves
        if isinstance(leaf, (list, tuple)) and len(leaf) == one.size and _OF_LAYERS.search(path[-1])
    }
    facts |= {path: runs for path, leaf in leaves if (runs := _shorter_runs(leaf, one)) is not None}
    counts = [edit for path, leaf in leaves for edit in _counts(path, leaf, one)]
    counts.sort(key=lambda edit: not any(_OF_LAYERS.search(path[-1]) for path in edit))
    for edit in counts:
        yield {**facts, **edit}
        if facts:
            yield edit
    if facts:
        yield facts


def _counts(path: Path, leaf: Any, one: Shortened) -> Iterator[dict[Path, Any]]:
    if type(leaf) is int and leaf == one.size:
        yield {path: len(one.kept)}
    elif isinstance(leaf, (list, tuple)) and all(type(item) is int for item in leaf):
        for at in (at for at, item in enumerate(leaf) if item == one.size):
            yield {path: [*leaf[:at], len(one.kept), *leaf[at + 1 :]]}


def _variants(path: Path, leaf: Any, one: Shortened) -> Iterator[dict[Path, Any]]:
    """What a field may be after layers have left, if it bounds, numbers or describes layers."""
    if type(leaf) is int and 0 < leaf <= one.size:
        yield {path: sum(kept < leaf for kept in one.kept)}
    if not isinstance(leaf, (list, tuple)) or not leaf:
        return
    if len(leaf) == one.size:
        yield {path: _taken(leaf, one.kept)}
    if all(type(item) is int and 0 <= item < one.size for item in leaf):
        yield {path: [one.kept.index(item) for item in leaf if item in one.kept]}


def _taken(items: Sequence[Any], kept: Sequence[int]) -> list[Any]:
    return [items[at] for at in kept]


def _shorter_runs(leaf: Any, one: Shortened) -> list[Any] | None:
    """Facts of layers that are written as runs, without those of the layers that go; None for all else.

    Example:
        >>> _shorter_runs([[["global", "local"], 2]], Shortened("h", 4, (0, 1, 3)))
        [[['global'], 1], [['local'], 1], [['local'], 1]]
    """
    found: list[Any] = []
    for run in leaf if isinstance(leaf, (list, tuple)) else ():
        match run:
            case [[*items], int(times)]:
                found += items * times
            case _:
                return None
    return [[[found[at]], 1] for at in one.kept] if len(found) == one.size else None
