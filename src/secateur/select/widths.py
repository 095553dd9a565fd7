"""Widths: how many channels each unit keeps once rounded, which ones, and what that costs."""

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil, lcm
from operator import mul

from secateur.costs.meter import CostMeter
from secateur.coupling import Groups
from secateur.graph.axes import Axis
from secateur.select.units import Unit


class Widths:
    """Turns counts removed per unit into kept counts, indices and costs.

    Args:
        groups: The groups of the model.
        units: Its units.
        round_to: Kept counts are rounded up to a multiple of this, and of what a kernel wants.
        meter: Measures the budget; None counts channels.

    Attributes:
        units: The units.
        groups: The groups of each unit.
        steps: How many channels of each unit come or go at once.
    """

    def __init__(self, groups: Groups, units: Sequence[Unit], round_to: int, meter: CostMeter | None) -> None:
        self.units = units
        self.steps = [lcm(round_to, unit.multiple) for unit in units]
        self.groups = [tuple(groups[name] for name in unit.names) for unit in units]
        self._axes = [tuple(group.axis for group in held) for held in self.groups]
        self._meter = meter
        self._shown = groups.offered
        self._offered: dict[int, list[int]] = {}
        for index, held in enumerate(self.groups):
            counts = [set(groups.offered[one.name]) for one in held if one.name in groups.offered]
            if counts:
                unit, step = units[index], self.steps[index]
                found = sorted(set.intersection(*counts))
                fitting = [one for one in found if one % step == 0 and one >= unit.floor]
                self._offered[index] = sorted({*fitting, unit.size})
        self._now: list[int] = []

    def restrict(self, index: int, offered: Sequence[int]) -> None:
        """Let a unit keep only these counts, of those that it may keep."""
        known = self._offered.get(index)
        self._offered[index] = sorted(offered if known is None else {*offered} & {*known} or {known[-1]})

    def smaller(self, index: int, count: int) -> int | None:
        """The next smaller count that a unit may keep; None at the lowest."""
        if index in self._offered:
            return max((width for width in self._offered[index] if width < count), default=None)
        unit, step = self.units[index], self.steps[index]
        less = (count - 1) // step * step
        return less if less >= unit.floor else None

    def larger(self, index: int, count: int) -> int | None:
        """The next larger count that a unit may keep; None if it is whole."""
        unit, step = self.units[index], self.steps[index]
        if index in self._offered:
            return min((width for width in self._offered[index] if width > count), default=None)
        return min((count // step + 1) * step, unit.size) if count < unit.size else None

    def kept(self, removed: Sequence[int]) -> list[int]:
        """Kept counts, rounded up."""
        return [self.rounded(index, unit.size - removed[index]) for index, unit in enumerate(self.units)]

    def rounded(self, index: int, count: int) -> int:
        """The count that a unit keeps where so many should stay."""
        step, size = self.steps[index], self.units[index].size
        if index in self._offered:
            offered = self._offered[index]
            return offered[min(bisect_left(offered, count), len(offered) - 1)]
        return min(ceil(count / step) * step, size)

    def steps_of(self, index: int) -> str:
        """The counts that a unit may keep, in words."""
        is_offered = any(one.name in self._shown for one in self.groups[index])
        return "what one number can say" if is_offered else f"a multiple of {self.steps[index]}"

    def indices(self, kept: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The best channels of each group."""
        return {
            name: tuple(sorted(order[unit.size - count :].tolist()))
            for unit, count in zip(self.units, kept, strict=True)
            for name, order in zip(unit.names, unit.orders, strict=True)
        }

    def cost(self, removed: Sequence[int]) -> float:
        """What stays, in the budget's units, when so many channels of each unit go."""
        return self.cost_of(self.kept(removed))

    def cost_of(self, kept: Sequence[int]) -> float:
        """What stays, in the budget's units, when each unit keeps so many channels."""
        self._now = list(kept)
        if self._meter is None:
            return self._channels()
        counts: dict[Axis, int] = {}
        for axes, count in zip(self._axes, kept, strict=True):
            counts.update(dict.fromkeys(axes, count))
        return self._meter.at(counts)

    def move(self, index: int, count: int) -> float:
        """The cost after one unit has changed and the others keep what was asked last: a small step."""
        self._now[index] = count
        if self._meter is None:
            return self._channels()
        return self._meter.move(dict.fromkeys(self._axes[index], count))

    def _channels(self) -> float:
        return float(sum(map(mul, self._now, map(len, self._axes))))
