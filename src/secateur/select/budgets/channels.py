"""Channels: a share for each group that a pattern fits; beside another budget the most that it may lose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.costs.budgeted import Gauge
from secateur.coupling import Group
from secateur.coupling.protect import Protected
from secateur.select.budget import Budget, Naming, budget
from secateur.select.choice import Choice
from secateur.select.reading import read_shares
from secateur.select.widths import Widths


@budget("channels")
@dataclass(frozen=True)
class Channels(Budget):
    """Share of channels to remove by group, {"layer4.*": 0.8}; other groups stay whole.

    A key is a pattern of names, or a module or parameter of the model. Beside another budget the share that
    each of these groups may lose at most, while the budget is met over all groups.

    Attributes:
        channels: The share to remove, by pattern; of several that fit the largest.
    """

    channels: Mapping[Any, float] = field(default_factory=dict)

    takes = Mapping[Protected, float | str] | None
    names_groups = True
    not_in_steps = "it is a share for each group"

    @classmethod
    def read(cls, given: Any) -> "Channels":
        """Read shares by pattern."""
        return cls(channels=read_shares(cls.kind, given))

    def beside(self, other: Budget) -> Budget | None:
        """Cap another budget that does not name groups itself."""
        return None if other.names_groups else replace(other, at_most=self.channels)

    def named(self, names: Naming) -> "Channels":
        """These shares by name."""
        return replace(self, channels=names(self.channels, self.kind))

    def asks_of(self, group: Group) -> bool:
        """Whether a pattern with a share fits a group."""
        return self._share([group]) > 0

    @property
    def asks_for_nothing(self) -> bool:
        """Whether no group is to lose any."""
        return not any(self.channels.values())

    @property
    def parts(self) -> Mapping[str, float]:
        """The shares by pattern."""
        return self.channels

    def choose(self, widths: Widths, scope: str, gauge: Gauge | None) -> Choice:
        """Remove of each unit what was asked for, down to its floor."""
        units = widths.units
        asked = [
            round(self._share(groups) * unit.size) for groups, unit in zip(widths.groups, units, strict=True)
        ]
        wanted = widths.cost_of([unit.size - count for unit, count in zip(units, asked, strict=True)])
        removed = [min(count, unit.free) for unit, count in zip(units, asked, strict=True)]
        return Choice(removed, wanted, decided="asked")

    def _share(self, groups: Sequence[Group]) -> float:
        fitting = [
            share for pattern, share in self.channels.items() if any(g.matches(pattern) for g in groups)
        ]
        return max(fitting, default=0.0)
