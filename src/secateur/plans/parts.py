"""What a plan is made of: expressions over groups, what each group keeps, and why."""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """A part of a plan: it may not change, and a file with unknown fields is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Factors(Frozen):
    """A row-major product of expressions."""

    product: tuple["Spec", ...]


class Terms(Frozen):
    """A concatenation of expressions."""

    sum: tuple["Spec", ...]


Spec: TypeAlias = int | str | Factors | Terms


class Why(Frozen):
    """Why a group has its width.

    Attributes:
        decided: What decided it: "budget", "floor", "rounding", "asked", "search", or "whole" where
            nothing had to go.
        floor: Channels that stay in any case; None, as all that follows, where nothing was decided.
        unrounded: Channels that would stay without rounding.
        rounding: Why the width was rounded; empty if it was not.
        highest_removed: The best score among the removed channels; None if none is removed.
        lowest_kept: The worst score among the kept ones.
        step: Channels that come or go at once.
        saves: What the budget would save if the next step went, too; None at the floor.
        costs: What it would cost to give one step back; None if the group is whole.
        together: Groups that must keep equal counts with this one.
        curve: How many channels are gone, from none to all but the floor's in eighths, and the sum of their
            scores: the error left where scores are errors (`after-refit`). The width that was chosen is one
            of the points.
    """

    decided: str
    floor: int | None = None
    unrounded: int | None = None
    rounding: str = ""
    highest_removed: float | None = None
    lowest_kept: float | None = None
    step: int | None = None
    saves: float | None = None
    costs: float | None = None
    together: tuple[str, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()


class Searched(Frozen):
    """What a search for other widths has brought.

    Attributes:
        tried: Widths that were judged beside those that the scope chose, which are one more.
        before: Output error of the widths that the scope chose, |cut - dense| / |dense|.
        after: Output error of the widths that were taken, on the same batches: never more.
        judged_on: Those batches, in words.

    Example:
        >>> print(Searched(tried=24, before=0.12, after=0.115, judged_on="4 batches"))
        widths searched: 24 others tried, output error 12 % -> 11.5 % on 4 batches
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    tried: int
    before: float
    after: float
    judged_on: str

    def __str__(self) -> str:
        shares = f"{100 * self.before:.3g} % -> {100 * self.after:.3g} %"
        better = "" if self.after < self.before else ", none of them better"
        return (
            f"widths searched: {self.tried} others tried{better}, output error {shares} on {self.judged_on}"
        )


class Account(Frozen):
    """How a budget was met.

    Attributes:
        kind: The budget, the word it was asked for by: "macs".
        whole: What the uncut model has, in the budget's units.
        wanted: What should stay.
        reached: What stays, as it was counted or predicted.
        criterion: What scored the channels.
        scope: How channels of different groups compare.
        measured: For a latency, the measured median of the cut model; None for what is counted.
        notes: What else there is to say.
        searched: What a search for other widths has brought; None where none was asked for.
    """

    kind: str
    whole: float
    wanted: float
    reached: float
    criterion: str
    scope: str
    measured: float | None = None
    notes: tuple[str, ...] = ()
    searched: Searched | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """What there is to say beside the numbers."""
        return self.notes if self.searched is None else (*self.notes, str(self.searched))


class PlanGroup(Frozen):
    """What stays of one group.

    Attributes:
        name: The group.
        size: Its channels before.
        keep: The indices that stay, ascending.
        members: The tensor dims that hold it.
        why: Why it has this width; None where no budget chose it.
    """

    name: str
    size: Annotated[int, Field(ge=1)]
    keep: tuple[Annotated[int, Field(ge=0)], ...]
    members: tuple[str, ...] = ()
    why: Why | None = None
