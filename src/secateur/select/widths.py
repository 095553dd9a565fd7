"""Widths: how many channels each unit keeps once rounded, which ones, and what that costs."""

from collections.abc import Sequence
from math import ceil, lcm
from operator import mul

from secateur.costs.meter import Meter
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
    """

    def __init__(self, groups: Groups, units: Sequence[Unit], round_to: int, meter: Meter | None) -> None:
        self.units = units
        self.steps = [lcm(round_to, unit.multiple) for unit in units]
        self._axes = [tuple(groups[name].axis for name in unit.names) for unit in units]
        self._groups = [len(unit.names) for unit in units]
        self._meter = meter
        self._offered: dict[int, list[int]] = {}
        self._now: list[int] = []

    def restrict(self, index: int, offered: Sequence[int]) -> None:
        """Let a unit keep only these counts."""
        self._offered[index] = sorted(offered)

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
        step = self.steps[index]
        return min(ceil(count / step) * step, self.units[index].size)

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
        return float(sum(map(mul, self._now, self._groups)))
