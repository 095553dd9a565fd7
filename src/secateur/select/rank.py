"""Ranking: which channels go, in which order, and how many.

Channels are removed in units. A unit is one channel of a group, or, where groups must keep equal counts, the
r-th worst channel of each of them. Each group offers its units from the worst up to its floor; the scope
(`secateur.select.scopes`) puts the units of all groups into one order, and the budget
(`secateur.select.budgets`) says how many of them go. Equal scores are taken from all groups evenly, so
exactly the asked number goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.costs.budgeted import Gauge
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.plans.parts import Account, Searched
from secateur.score import Scores
from secateur.select.budget import Budget
from secateur.select.choice import Choice, Selection
from secateur.select.floors import LEAST, Floors, MinKeep, require_fit
from secateur.select.meet import NEAR
from secateur.select.units import Unit, units_of
from secateur.select.why import explain_widths
from secateur.select.widths import Widths


@dataclass(frozen=True, eq=False)
class Offer:
    """What a scope and a budget have chosen, and the widths that there would be beside it.

    Attributes:
        budget: What was asked for.
        widths: Kept counts and their cost.
        choice: How many channels of each unit go.
        reasons: Why the other groups are left alone.
        criterion: What scored the channels.
        scope: How channels of different groups compare.
    """

    budget: Budget
    widths: Widths
    choice: Choice
    reasons: Mapping[str, str]
    criterion: str
    scope: str

    @property
    def kept(self) -> list[int]:
        """Channels that each unit keeps by the choice, rounded."""
        return self.widths.kept(self.choice.removed)

    def selection(self, kept: Sequence[int] | None = None, searched: Searched | None = None) -> Selection:
        """What stays of each group.

        Args:
            kept: Channels that each unit keeps; None for those that were chosen.
            searched: What the search that found them has brought.
        """
        widths, choice = self.widths, self.choice
        units = widths.units
        if kept is None or list(kept) == self.kept:
            kept = self.kept
        else:
            gone = [unit.size - count for unit, count in zip(units, kept, strict=True)]
            choice = Choice(gone, choice.wanted, "search")
        reached = widths.cost_of(kept)
        note = _difference(self.budget, reached, choice.wanted)
        floored = [
            name
            for unit, left in zip(units, choice.removed, strict=True)
            if unit.size - left <= unit.floor < unit.size
            for name in unit.names
        ]
        return Selection(
            keep=widths.indices(kept),
            reasons=self.reasons,
            floored=tuple(floored),
            wanted=choice.wanted,
            reached=reached,
            why=explain_widths(widths, choice, kept),
            account=Account(
                kind=self.budget.kind,
                whole=widths.cost_of([unit.size for unit in units]),
                wanted=choice.wanted,
                reached=reached,
                criterion=self.criterion,
                scope=self.scope,
                notes=(note,) if note else (),
                searched=searched,
            ),
        )


def select(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    *,
    scope: str = "global",
    min_keep: MinKeep | Floors = LEAST,
    round_to: int = 1,
    gauge: Gauge | None = None,
) -> Selection:
    """Choose which channels stay.

    Args:
        groups: The groups of the model.
        scores: Their scores.
        budget: How much may stay.
        scope: How channels of different groups compare, a registered name.
        min_keep: Share of each group that always stays, at least one channel.
        round_to: Kept counts are rounded up to a multiple of this.
        gauge: Predicts the latency; needed for a budget that is timed only.

    Raises:
        RequestError: The scope is unknown, a number is out of range, or nothing can be pruned.
    """
    return offer(
        groups, scores, budget, scope=scope, min_keep=min_keep, round_to=round_to, gauge=gauge
    ).selection()


def offer(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    *,
    scope: str,
    min_keep: MinKeep | Floors,
    round_to: int,
    gauge: Gauge | None = None,
) -> Offer:
    """Choose how many channels of each unit go, as `select`, with the widths that there would be beside.

    Raises:
        RequestError: As `select`.
    """
    floors = Floors.of(min_keep).capped(budget.at_most)
    reasons = {group.name: group.reason for group in groups if group.reason} | dict(scores.skipped)
    units = units_of(groups, scores, floors)
    reasons |= _left_out(groups, scores, units, reasons)
    if not units:
        why = f"criterion {scores.criterion} fits no free group" if scores.skipped else "no group is free"
        raise RequestError(
            f"nothing can be pruned: {why}",
            [f"{name}: {reason}" for name, reason in {**scores.skipped, **reasons}.items()],
            "lift a protection, or choose another criterion",
        )
    free = [name for unit in units for name in unit.names]
    require_fit(budget.parts, "channels", groups, free)
    require_fit(floors.by_pattern, "min_keep", groups, free)
    widths = Widths(groups, units, round_to, gauge.meter if gauge else budget.meter(groups))
    return Offer(budget, widths, budget.choose(widths, scope, gauge), reasons, scores.criterion, scope)


def _left_out(
    groups: Groups, scores: Scores, units: Sequence[Unit], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Scored groups that stay whole with a partner, and why that one stays."""
    chosen = {name for unit in units for name in unit.names}
    tied = {name: names for names, _ in groups.ties for name in names}
    found: dict[str, str] = {}
    for name in scores.by_group:
        if name not in chosen:
            partner = next(other for other in tied[name] if other not in scores.by_group)
            why = reasons.get(partner, "it has no scores")
            found[name] = f"must keep as many channels as {partner}: {why}"
    return found


def _difference(budget: Budget, reached: float, wanted: float) -> str:
    """What to say where what stays is not what was asked to stay."""
    shown, asked = budget.show(reached), f"{budget.show(wanted)} {budget.unit}"
    if reached < (1 - NEAR) * wanted:
        return f"{shown} of the {asked} that may stay do: widths come in steps"
    if reached > (1 + NEAR) * wanted:
        return f"{shown} stay where {asked} were asked to: floors and rounding keep the rest"
    return ""
