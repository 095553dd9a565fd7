"""Ratio: a share of the channels goes.

Every group loses it under a scope that is even; else all groups together do, as nearly as can be.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from secateur.costs.budgeted import Gauge
from secateur.select.budget import Budget, budget, budgets
from secateur.select.choice import Choice
from secateur.select.meet import removed_after, shortest
from secateur.select.reading import read_share
from secateur.select.scope import scopes
from secateur.select.widths import Widths


@budget("ratio")
class Ratio(Budget):
    """Share of channels to remove, 0 <= ratio < 1, or a text such as "50%".

    Of each group (scope local) or of all together; or a share for each pattern of groups, as `channels`.
    """

    takes = float | str | Mapping[str, float | str] | None

    @classmethod
    def read(cls, given: Any) -> Budget:
        """Read a share, or shares by pattern."""
        if isinstance(given, Mapping):
            return budgets["channels"].read(given)
        return cls(read_share(cls.kind, given))

    def target(self, whole: float) -> float:
        """The channels that stay."""
        return (1 - self.value) * whole

    @property
    def asks_for_nothing(self) -> bool:
        """Whether no channel is to go."""
        return self.value == 0

    def choose(self, widths: Widths, scope: str, gauge: Gauge | None) -> Choice:
        """Take the same share of each unit, or come as near to it as can be over all."""
        target, chosen = self.target(widths.cost([0] * len(widths.units))), scopes[scope]
        if chosen.is_even:
            removed = [min(round(self.value * unit.size), unit.free) for unit in widths.units]
            return Choice(removed, target)
        order = chosen.order(widths)
        steps = shortest(widths, target, order)
        near = [removed_after(widths, order, count) for count in (steps, max(steps - 1, 0))]
        if widths.cost(near[0]) > target:  # out of reach: as far as the floors allow
            return Choice(near[0], target)
        return Choice(min(near, key=lambda removed: abs(widths.cost(removed) - target)), target)

    def leaving(self, stays: float, whole: float) -> "Ratio":
        """The share of what is left."""
        return replace(self, value=1 - stays / whole)
