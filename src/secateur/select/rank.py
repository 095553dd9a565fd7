"""Ranking: which channels go, in which order, and how many.

Channels are removed in units. A unit is one channel of a group, or, where groups must keep equal counts, the
r-th worst channel of each of them. Each group offers its units from the worst up to its floor; the scope
decides how units of different groups compare:

    global       by score: the lowest of the whole network go first
    isomorphic   by score among groups of one structure (Fang et al. 2024, arXiv 2407.04616), each such
                 class losing the same share
    local        by rank: every group loses the same share

All give one sequence of units. A budget takes the prefix that meets it best (`secateur.select.meet`); a
latency chooses by what each layer gains (`secateur.select.blocks`). Equal scores are taken from all groups
evenly, so exactly the asked number goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral

from secateur.costs.budgeted import Gauge, meter_of
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.plans.parts import Account, Why
from secateur.score import Scores
from secateur.select.blocks import choose_by_latency
from secateur.select.budget import Budget
from secateur.select.meet import NEAR, meet
from secateur.select.units import SCOPES, Unit, sequence_of, units_of
from secateur.select.why import explain_widths
from secateur.select.widths import Widths


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


def select(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    *,
    scope: str = "global",
    min_keep: float = 0.1,
    round_to: int = 1,
    gauge: Gauge | None = None,
) -> Selection:
    """Choose which channels stay.

    Args:
        groups: The groups of the model.
        scores: Their scores.
        budget: How much may stay.
        scope: "global", "local" or "isomorphic".
        min_keep: Floor: share of each group that always stays, at least one channel.
        round_to: Kept counts are rounded up to a multiple of this.
        gauge: Predicts the latency; needed for a budget of latency only.

    Raises:
        RequestError: The scope is unknown, a number is out of range, or nothing can be pruned.
    """
    if scope not in SCOPES:
        raise RequestError(f"unknown scope '{scope}'", do=f"choose one of {', '.join(SCOPES)}")
    if not 0 <= min_keep <= 1 or not isinstance(round_to, Integral) or round_to < 1:
        what = f"min_keep is {min_keep:g} and round_to is {round_to!r}"
        raise RequestError(what, do="pass 0 <= min_keep <= 1, and a whole number round_to >= 1")
    reasons = {group.name: group.reason for group in groups if group.reason} | dict(scores.skipped)
    units = units_of(groups, scores, min_keep)
    reasons |= _left_out(groups, scores, units, reasons)
    if not units:
        why = f"criterion {scores.criterion} fits no free group" if scores.skipped else "no group is free"
        raise RequestError(
            f"nothing can be pruned: {why}",
            [f"{name}: {reason}" for name, reason in {**scores.skipped, **reasons}.items()],
            "lift a protection, or choose another criterion",
        )
    widths = Widths(groups, units, round_to, gauge.meter if gauge else meter_of(budget.kind, groups))
    rounding: dict[int, str] = {}
    if gauge is not None:
        removed, wanted, rounding = choose_by_latency(widths, budget, scope, gauge)
        kept = [unit.size - count for unit, count in zip(units, removed, strict=True)]
    else:
        removed, wanted = _removed(widths, groups, budget, scope)
        kept = widths.kept(removed)
    reached = widths.cost_of(kept)
    note = "" if gauge is not None else _difference(budget, reached, wanted)
    return Selection(
        keep=widths.indices(kept),
        reasons=reasons,
        floored=tuple(
            name
            for unit, left in zip(units, removed, strict=True)
            if unit.size - left <= unit.floor < unit.size
            for name in unit.names
        ),
        wanted=wanted,
        reached=reached,
        why=explain_widths(widths, removed, kept, is_asked=budget.kind == "channels", rounding=rounding),
        account=Account(
            kind=budget.kind,
            whole=widths.cost_of([unit.size for unit in units]),
            wanted=wanted,
            reached=reached,
            criterion=scores.criterion,
            scope=scope,
            notes=(note,) if note else (),
        ),
    )


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


def _removed(widths: Widths, groups: Groups, budget: Budget, scope: str) -> tuple[list[int], float]:
    """Channels that each unit loses, before rounding, and what should stay."""
    units = widths.units
    if budget.kind == "channels":
        budget.require_patterns_fit(groups, [name for unit in units for name in unit.names])
        asked = [_asked_share(budget, groups, unit) for unit in units]
        removed = [min(share, unit.size - unit.floor) for share, unit in zip(asked, units, strict=True)]
        return removed, _channels(units) - sum(
            share * len(unit.names) for share, unit in zip(asked, units, strict=True)
        )
    if budget.kind == "ratio" and scope == "local":
        removed = [min(round(budget.value * unit.size), unit.size - unit.floor) for unit in units]
        return removed, budget.target(_channels(units))
    return meet(widths, budget, sequence_of(units, scope), scope)


def _channels(units: Sequence[Unit]) -> int:
    return sum(unit.size * len(unit.names) for unit in units)


def _asked_share(budget: Budget, groups: Groups, unit: Unit) -> int:
    shares = [budget.share_for(groups, name) for name in unit.names]
    return round(max((share for share in shares if share is not None), default=0.0) * unit.size)
