"""Ranking: which channels go, in which order, and how many.

Channels are removed in units. A unit is one channel of a group, or, where groups must keep equal counts, the
r-th worst channel of each of them. Each group offers its units from the worst up to its floor; the scope
decides how units of different groups compare:

    global       by score: the lowest of the whole network go first
    isomorphic   by score among groups of one structure (Fang et al. 2024, arXiv 2407.04616), each such
                 class losing the same share
    local        by rank: every group loses the same share

All give one sequence of units. A budget takes the prefix that meets it best: its cost falls with every unit,
so a binary search finds it. Equal scores are taken from all groups evenly, so exactly the asked number goes.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, lcm

import numpy as np
from numpy.typing import NDArray

from secateur.couple import Group, Groups
from secateur.errors import RequestError
from secateur.graph.axes import Axis
from secateur.score import Scores
from secateur.select.budget import Budget

SCOPES = ("global", "local", "isomorphic")


@dataclass(frozen=True)
class Selection:
    """What stays.

    Attributes:
        keep: Indices to keep by group, ascending; every scored group is named.
        reasons: Why the other groups were left alone.
        floored: Groups that stopped at their floor.
        wanted: The budget, in its own units: channels, MACs or parameters that should stay.
        reached: What stays, in the same units.
    """

    keep: Mapping[str, tuple[int, ...]]
    reasons: Mapping[str, str]
    floored: tuple[str, ...]
    wanted: float
    reached: float

    def __str__(self) -> str:
        kept = sum(map(len, self.keep.values()))
        met = f"{self.reached:,.0f} of {self.wanted:,.0f} asked"
        return f"{kept} channels of {len(self.keep)} groups stay; {met}"


@dataclass(frozen=True)
class _Unit:
    """Groups that lose channels together, one each a step, worst first."""

    names: tuple[str, ...]
    orders: tuple[NDArray[np.int64], ...]
    scores: NDArray[np.float64]
    floor: int
    signature: tuple[object, ...]
    multiple: int

    @property
    def size(self) -> int:
        return len(self.scores)


def select(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    *,
    scope: str = "global",
    min_keep: float = 0.1,
    round_to: int = 1,
) -> Selection:
    """Choose which channels stay.

    Args:
        groups: The groups of the model.
        scores: Their scores.
        budget: How much may stay.
        scope: "global", "local" or "isomorphic".
        min_keep: Floor: share of each group that always stays, at least one channel.
        round_to: Kept counts are rounded up to a multiple of this.

    Raises:
        RequestError: The scope is unknown, a number is out of range, or nothing can be pruned.
    """
    if scope not in SCOPES:
        raise RequestError(f"unknown scope '{scope}'", do=f"choose one of {', '.join(SCOPES)}")
    if not 0 <= min_keep <= 1 or round_to < 1:
        raise RequestError(
            f"min_keep is {min_keep:g} and round_to is {round_to}", do="0 <= min_keep <= 1 and round_to >= 1"
        )
    reasons = {group.name: group.reason for group in groups if group.reason} | dict(scores.skipped)
    units = _units(groups, scores, min_keep)
    if not units:
        why = f"criterion {scores.criterion} fits no free group" if scores.skipped else "no group is free"
        raise RequestError(
            f"nothing can be pruned: {why}",
            [f"{name}: {reason}" for name, reason in {**scores.skipped, **reasons}.items()],
            "lift a protection, or choose another criterion",
        )
    chosen = _Chooser(groups, units, round_to)
    if budget.kind == "channels":
        budget.require_patterns_fit(groups)
        removed = [_asked_share(budget, groups, unit) for unit in units]
        removed = [min(count, unit.size - unit.floor) for count, unit in zip(removed, units, strict=True)]
        wanted = chosen.channels(removed)
    elif budget.kind == "ratio" and scope == "local":
        removed = [min(round(budget.value * unit.size), unit.size - unit.floor) for unit in units]
        wanted = budget.target(sum(unit.size * len(unit.names) for unit in units))
    else:
        removed, wanted = _meet(chosen, budget, _sequence(units, scope))
    kept = chosen.kept(removed)
    return Selection(
        keep=chosen.indices(kept),
        reasons=reasons,
        floored=tuple(
            name
            for unit, left in zip(units, removed, strict=True)
            if unit.size - left <= unit.floor < unit.size
            for name in unit.names
        ),
        wanted=wanted,
        reached=chosen.cost(budget.kind)(removed),
    )


def _asked_share(budget: Budget, groups: Groups, unit: _Unit) -> int:
    shares = [budget.share_for(groups, name) for name in unit.names]
    return round(max((share for share in shares if share is not None), default=0.0) * unit.size)


def _units(groups: Groups, scores: Scores, min_keep: float) -> list[_Unit]:
    """Join tied groups and order each group's channels, worst first."""
    tied: dict[str, tuple[str, ...]] = {name: names for names, _ in groups.ties for name in names}
    units: list[_Unit] = []
    done: set[str] = set()
    for name in scores.by_group:
        names = tied.get(name, (name,))
        if name in done or any(other not in scores.by_group for other in names):
            continue
        done.update(names)
        orders, values = [], []
        for other in names:
            value = scores.by_group[other].numpy()
            order = np.argsort(value, kind="stable")
            orders.append(order)
            values.append(value[order])
        size = groups[name].size
        units.append(
            _Unit(
                names=names,
                orders=tuple(orders),
                scores=np.mean(values, axis=0),
                floor=min(max(1, ceil(min_keep * size)), size),
                signature=_signature(groups[name]),
                multiple=lcm(*(groups[other].multiple for other in names)),
            )
        )
    return units


def _signature(group: Group) -> tuple[object, ...]:
    """What makes two groups of one structure: size, and how each member uses the axis."""
    return (group.size, *((member.op, member.arg, member.dim) for member in group.members))


def _sequence(units: Sequence[_Unit], scope: str) -> list[int]:
    """The unit that loses a channel at each step, in order; equal scores go from all units evenly."""
    classes: dict[object, list[tuple[float, float, int]]] = defaultdict(list)
    for index, unit in enumerate(units):
        key = unit.signature if scope == "isomorphic" else None
        steps = unit.size - unit.floor
        shares = (np.arange(steps) + 0.5) / unit.size
        keys = shares if scope == "local" else unit.scores[:steps]
        classes[key].extend(zip(keys.tolist(), shares.tolist(), [index] * steps, strict=True))
    if len(classes) == 1:
        (only,) = classes.values()
        return [index for _, _, index in sorted(only)]
    merged: list[tuple[float, int]] = []
    for steps_of_class in classes.values():
        whole = sum(units[index].size for index in {index for _, _, index in steps_of_class})
        ordered = sorted(steps_of_class)
        merged.extend(((rank + 0.5) / whole, index) for rank, (_, _, index) in enumerate(ordered))
    return [index for _, index in sorted(merged)]


class _Chooser:
    """Turns counts removed per unit into kept counts, indices and costs."""

    def __init__(self, groups: Groups, units: Sequence[_Unit], round_to: int) -> None:
        self.groups = groups
        self.units = units
        self.round_to = round_to

    def kept(self, removed: Sequence[int]) -> list[int]:
        """Kept counts, rounded up."""
        return [
            min(ceil((unit.size - count) / step) * step, unit.size)
            for unit, count in zip(self.units, removed, strict=True)
            for step in (lcm(self.round_to, unit.multiple),)
        ]

    def indices(self, kept: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The best channels of each group."""
        return {
            name: tuple(sorted(order[unit.size - count :].tolist()))
            for unit, count in zip(self.units, kept, strict=True)
            for name, order in zip(unit.names, unit.orders, strict=True)
        }

    def channels(self, removed: Sequence[int]) -> float:
        return float(
            sum(count * len(unit.names) for unit, count in zip(self.units, self.kept(removed), strict=True))
        )

    def cost(self, kind: str) -> Callable[[Sequence[int]], float]:
        """The function that measures what stays, in the budget's units."""
        if kind not in ("macs", "params"):
            return self.channels
        measure = self.groups.macs if kind == "macs" else self.groups.params

        def cost(removed: Sequence[int]) -> float:
            counts: dict[Axis, int] = {}
            for unit, count in zip(self.units, self.kept(removed), strict=True):
                counts.update({self.groups[name].axis: count for name in unit.names})
            return float(measure(counts))

        return cost


def _meet(chooser: _Chooser, budget: Budget, sequence: Sequence[int]) -> tuple[list[int], float]:
    """Take the shortest prefix of the sequence that the budget allows; for a ratio the nearest one."""
    cost = chooser.cost(budget.kind)

    def removed_after(steps: int) -> list[int]:
        counts = np.bincount(np.asarray(sequence[:steps], dtype=np.int64), minlength=len(chooser.units))
        return [int(count) for count in counts]

    target = budget.target(cost([0] * len(chooser.units)))
    low, high = 0, len(sequence)
    if cost(removed_after(high)) > target:
        return _fall_short(chooser, budget, removed_after(high), cost, target)
    while low < high:
        middle = (low + high) // 2
        if cost(removed_after(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    within = removed_after(low)
    if budget.kind != "ratio":
        return within, target
    over = removed_after(max(low - 1, 0))
    return min(within, over, key=lambda removed: abs(cost(removed) - target)), target


def _fall_short(
    chooser: _Chooser,
    budget: Budget,
    removed: list[int],
    cost: Callable[[Sequence[int]], float],
    target: float,
) -> tuple[list[int], float]:
    """A ratio goes as far as the floors allow; a hard budget that cannot be met is refused."""
    if budget.kind == "ratio":
        return removed, target
    raise RequestError(
        f"{budget} allows {target:,.0f}, the smallest reachable is {cost(removed):,.0f}",
        ["floors, rounding and protected groups keep the rest"],
        "ask for more, or lower min_keep or round_to",
    )
