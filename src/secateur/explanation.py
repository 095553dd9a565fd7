"""Explain: why each group of a plan has its width."""

from dataclasses import dataclass, field
from typing import Any

from secateur.plans.plan import Account, Plan, Why
from secateur.result import Result
from secateur.rich import Table
from secateur.select import budget_of
from secateur.tables import printed

_OF_ERRORS = "after-refit"
"""The criterion whose scores add up to an error."""


class GroupReason(Why):
    """Why one group has its width: what its plan says of it, and two cases more.

    Attributes:
        name: The group.
        size: Its channels before; None if it is protected.
        kept: Its channels after.
        decided: As in the plan; or "protected", or "not recorded" where no budget made the plan.
        reason: Why it may not be cut; empty for the others.
    """

    name: str
    size: int | None = None
    kept: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why each group of a plan has its width; prints as a table.

    Attributes:
        requested: What was asked for.
        groups: The groups that could be cut, then those left alone.
        account: How the budget was met; None where there was none.
    """

    requested: str
    groups: tuple[GroupReason, ...]
    account: Account | None = field(repr=False)

    def __getitem__(self, name: str) -> GroupReason:
        return {group.name: group for group in self.groups}[name]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "requested": self.requested,
            "account": None if self.account is None else self.account.model_dump(mode="json"),
            "groups": [group.model_dump(mode="json") for group in self.groups],
        }

    def table(self) -> Table:
        """The table that `print` shows, of the groups that could be cut."""
        budget = budget_of(self.account.kind if self.account else "channels")
        table = Table(
            "group",
            "width",
            "decided by",
            "scores: removed < kept",
            "floor",
            "step",
            f"next step saves ({budget.unit})",
            "one back costs",
            title=f"why these widths: {self.requested}",
            title_justify="left",
        )
        for group in self.groups:
            if group.decided == "protected":
                continue
            table.add_row(
                group.name,
                f"{group.size} -> {group.kept}",
                group.decided,
                f"{_number(group.highest_removed)} < {_number(group.lowest_kept)}",
                _number(group.floor),
                _number(group.step),
                "at the floor" if group.saves is None else budget.show(group.saves),
                "whole" if group.costs is None else budget.show(group.costs),
            )
        return table

    def __str__(self) -> str:
        lines = [printed(self.table(), width=140)]
        if self.account is not None and self.account.criterion == _OF_ERRORS:
            lines += [_curve_line(group) for group in self.groups if group.curve]
        lines += [f"rounded {group.name}: {group.rounding}" for group in self.groups if group.rounding]
        lines += [
            f"equal counts: {group.name}, {', '.join(group.together)}"
            for group in self.groups
            if group.together and group.name < min(group.together)
        ]
        lines += [f"left alone {group.name}: {group.reason}" for group in self.groups if group.reason]
        if self.account is not None:
            lines += _account_lines(self.account)
        return "\n".join(lines)


def explain(plan: Plan | Result) -> Explanation:
    """Say of each group why it has its width: threshold, floor, rounding, protection and budget.

    The reasons are part of a plan, also of one that was saved and loaded.

    Args:
        plan: A plan, or what `prune` returned.

    Returns:
        The reasons; printing them shows a table, `to_dict()` gives plain values.

    Example:
        >>> import torch, secateur as sc
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> why = explain(sc.prune(net, torch.zeros(1, 4), params=0.5).plan)["0"]
        >>> why.size, why.kept, why.decided, why.floor, why.saves
        (8, 3, 'budget', 1, 7.0)
    """
    plan = plan.plan if isinstance(plan, Result) else plan
    unsaid = Why(decided="not recorded")
    cut = tuple(
        GroupReason(
            name=group.name, size=group.size, kept=len(group.keep), **(group.why or unsaid).model_dump()
        )
        for group in plan.groups
    )
    named = {group.name for group in plan.groups}
    left = tuple(
        GroupReason(name=name, decided="protected", reason=reason)
        for name, reason in plan.reasons.items()
        if name not in named
    )
    return Explanation(str(plan.requested), cut + left, plan.account)


def _curve_line(group: GroupReason) -> str:
    """The error left by channels that are gone; the chosen width in brackets."""
    gone = (group.size or 0) - (group.kept or 0)
    points = [
        f"[{count}: {error:.2g}]" if count == gone else f"{count}: {error:.2g}"
        for count, error in group.curve
    ]
    return f"error by channels gone, {group.name}: {', '.join(points)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _account_lines(account: Account) -> list[str]:
    budget = budget_of(account.kind)
    lines = [
        f"{account.kind} by {account.criterion}, scope {account.scope}: {budget.show(account.reached)} of "
        f"{budget.show(account.wanted)} {budget.unit} asked ({account.reached / account.wanted:.1%}); the "
        f"uncut model has {budget.show(account.whole)}"
    ]
    return [*lines, *account.lines]
