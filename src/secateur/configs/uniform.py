"""Uniform: which groups keep equal counts so that one number says the width of all layers.

Of a model that is built from a config, groups share a count if one field of it says the axes of them all.
What no field says alone stays whole, and where the config refuses some counts (a width that is no multiple of
the heads) the others are offered. Of any other model, groups share a count if they are as large and of one
name but for the numbers of layers in it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from secateur.architecture import unsaved_names
from secateur.configs.fields import Described, Said
from secateur.coupling import Group, Groups
from secateur.graph.axes import Axis, leaves
from secateur.graph.keep import Kept

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|#|$)|^\d+(?=\.|#|$)")
_EACH = 64
"""Groups up to this size are asked for every count that the config may refuse."""


@dataclass(frozen=True)
class Uniform:
    """What must hold so that one number says the width of all layers.

    Attributes:
        groups: The groups, with ties between those that share a number and the counts that they may keep.
        vetoes: Groups that no number says, with the reason; they must be left whole first.
    """

    groups: Groups
    vetoes: Mapping[str, str] = field(default_factory=dict)


def uniform(groups: Groups, described: Described | None) -> Uniform:
    """Tie the groups that one number says.

    Args:
        groups: The groups of a model.
        described: The model with its config; None if it is built from none.

    Example:
        >>> import torch, secateur as sc
        >>> layers = [torch.nn.Linear(*sizes) for sizes in ((4, 4), (4, 8), (8, 4), (4, 2))]
        >>> groups = sc.couple(torch.nn.Sequential(*layers), torch.zeros(1, 4))
        >>> uniform(groups, None).groups.ties
        ((('0', '2'), 'one width for layers that are alike'),)
    """
    if described is None:
        shared = _by_name(groups.prunable)
        return Uniform(_tied(groups, [(names, "one width for layers that are alike") for names in shared]))
    return _Asked(groups, described).answer()


def _tied(groups: Groups, ties: Iterable[tuple[Sequence[str], str]]) -> Groups:
    """The groups with further ties, those that meet joined."""
    joined: list[tuple[tuple[str, ...], str]] = []
    for names, reason in (*ties, *groups.ties):
        meeting = [one for one in joined if not set(one[0]).isdisjoint(names)]
        joined = [one for one in joined if one not in meeting]
        members = dict.fromkeys(chain(*(one for one, _ in meeting), names))
        reasons = dict.fromkeys((*(why for _, why in meeting), reason))
        joined.append((tuple(members), "; ".join(reasons)))
    return replace(groups, ties=tuple(one for one in joined if len(one[0]) > 1))


def _by_name(groups: Iterable[Group]) -> list[tuple[str, ...]]:
    found: dict[tuple[str, int], list[str]] = {}
    for group in groups:
        found.setdefault((_NUMBER.sub("*", group.name), group.size), []).append(group.name)
    return [tuple(names) for names in found.values() if len(names) > 1]


class _Asked:
    """Groups, asked against the config of their model."""

    def __init__(self, groups: Groups, described: Described) -> None:
        self.groups, self.described = groups, described
        self.free = {group.axis: group.name for group in groups.prunable}
        self.unsaved = set(unsaved_names(described.model))

    def answer(self) -> Uniform:
        """The ties and counts, or the vetoes."""
        ties = [(names, f"config.{name} is one number") for name, names in self._shared()]
        tied = _tied(self.groups, ties)
        known = {name: names for names, _ in tied.ties for name in names}
        classes = dict.fromkeys(known.get(name, (name,)) for name in self.free.values())
        offered: dict[str, tuple[int, ...]] = {}
        vetoes: dict[str, str] = {}
        for names in classes:
            counts = self._counts(names)
            if len(counts) == self.groups[names[0]].size:
                continue
            if counts:
                offered.update(dict.fromkeys(names, counts))
            else:
                vetoes.update(
                    dict.fromkeys((name for name in names if name in self.free.values()), self._why(names))
                )
        return Uniform(replace(tied, offered=offered), vetoes)

    def _shared(self) -> list[tuple[str, tuple[str, ...]]]:
        """By field, the groups of one size whose axes it says at one place of a product."""
        found: dict[tuple[str, int, int], dict[str, None]] = {}
        for said in self.described.fields:
            for at, leaf in self._axes(said):
                found.setdefault((said.name, at, leaf.size), {})[self.free[leaf]] = None
        return [(name, tuple(names)) for (name, _, _), names in found.items()]

    def _axes(self, said: Said) -> list[tuple[int, Axis]]:
        """The free axes that a field says, each with its place among those."""
        found: list[tuple[int, Axis]] = []
        for tensor, at in said.dims:
            if tensor not in self.groups.graph.tensors:
                continue
            for parts in said.readings(self.groups.dims(tensor)[at], (tensor, at))[:1]:
                held = [list(enumerate(leaves(part))) for part in parts]
                found += [(place, leaf) for one in held for place, leaf in one if leaf in self.free]
        return found

    def _counts(self, names: Sequence[str]) -> tuple[int, ...]:
        """The counts that the config can say; none if it can say no smaller one."""
        size = self.groups[names[0]].size
        if self._is_computed(names) or size < 2:
            return ()
        if size <= _EACH:
            smaller = tuple(count for count in range(1, size) if self._says(names, count))
            return (*smaller, size) if smaller else ()
        for step in (step for step in range(1, size // 2 + 1) if step == 1 or size % step == 0):
            if self._says(names, size - step):
                return tuple(range(size, 0, -step))[::-1]
        return ()

    def _says(self, names: Sequence[str], count: int) -> bool:
        masks = {group.axis: np.arange(group.size) < count for group in map(self.groups.__getitem__, names)}
        return self.described.edits(self.groups, Kept(masks)) is not None

    def _is_computed(self, names: Sequence[str]) -> bool:
        """Whether a buffer that no file holds loses positions: the config makes it anew, otherwise."""
        return any(member.tensor in self.unsaved for name in names for member in self.groups[name].members)

    def _why(self, names: Sequence[str]) -> str:
        """Why no config says that these groups are smaller."""
        if self._is_computed(names):
            return "uniform: a buffer of it is no part of a saved model, its config makes it anew"
        saying = [
            said
            for said in self.described.fields
            if any(self.free[leaf] in names for _, leaf in self._axes(said))
        ]
        if not saying:
            return "uniform: the model's config has no number for it"
        others = {self.free[leaf] for said in saying for _, leaf in self._axes(said)} - set(names)
        more = f", which says {min(others)}, too" if others else ""
        return f"uniform: no config says a smaller {', '.join(said.name for said in saying)}{more}"
