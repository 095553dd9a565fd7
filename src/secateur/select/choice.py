"""What was chosen: counts for units at first, then the positions that each group keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from secateur.plans.parts import Account, Why


@dataclass(frozen=True)
class Choice:
    """How many channels go.

    Attributes:
        removed: Channels removed from each unit, before rounding.
        wanted: What should stay, in the budget's units.
        decided: What decided it, as in `Why`.
        rounding: Why the width of a unit was rounded, by its index, where it is not the step alone.
    """

    removed: Sequence[int]
    wanted: float
    decided: str = "budget"
    rounding: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """What stays.

    Attributes:
        keep: Indices to keep by group, ascending; every scored group is named.
        reasons: Why the other groups were left alone.
        floored: Groups that stopped at their floor.
        wanted: The budget, in its own units: channels, MACs, parameters, bytes or milliseconds that should
            stay.
        reached: What stays, in the same units.
        why: Why each group has its width.
        account: How the budget was met; None where there was none.
    """

    keep: Mapping[str, tuple[int, ...]]
    reasons: Mapping[str, str]
    floored: tuple[str, ...]
    wanted: float
    reached: float
    why: Mapping[str, Why] = field(default_factory=dict)
    account: Account | None = None

    def __str__(self) -> str:
        kept = sum(map(len, self.keep.values()))
        met = f"{self.reached:,.0f} of {self.wanted:,.0f} asked"
        return f"{kept} channels of {len(self.keep)} groups stay; {met}"
