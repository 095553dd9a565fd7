"""Searching: widths that a request tries are cut and recovered as its result will be, and judged.

How far the outputs of a network that is only cut are from the dense ones says nothing of how far they are
once its layers are refitted (rank correlations about 0 in docs/LOG.md), so each candidate is recovered with
what the request recovers with, on a share of the data. Steps that learn by gradients are left out: they take
as long as training.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
from torch import nn

from secateur.asking import Filled
from secateur.capture.batches import Samples, batches
from secateur.capture.meta import require_values
from secateur.coupling import Groups, Recorded
from secateur.errors import CutError, RequestError
from secateur.plans.parts import Searched
from secateur.plans.plan import Plan
from secateur.proof import kept_by
from secateur.recovery import Subject, recover, say_on_terminal
from secateur.recovery.loss import HeldOut
from secateur.recovery.step import steps as registered
from secateur.select import Offer, Selection
from secateur.select.scope import scopes
from secateur.select.search import search_widths
from secateur.settle import Attempt, Settler


@dataclass(frozen=True, eq=False)
class Compared:
    """The batches by which candidates of a request are chosen, and those by which they are judged.

    Attributes:
        data: All batches as they were given.
        inputs: All batches, inputs of the model's form.
        held: What the candidates are judged on.
        dense: The dense model.
        state: What it returns for its next call only.
    """

    data: Sequence[Any]
    inputs: Sequence[Any]
    held: HeldOut
    dense: nn.Module
    state: Any

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any, data: Iterable[Any], state: Any) -> "Compared":
        """Read the data once, into memory.

        Args:
            model: The dense model; not changed.
            example_inputs: As for `prune`.
            data: As for `prune`.
            state: What the model returns for its next call only.
        """
        given = list(Samples(data, model, example_inputs).data)
        inputs = batches(given, model, example_inputs)
        assert inputs is not None, "there is data"
        return cls(given, inputs, HeldOut.of(model, inputs, state), model, state)

    @property
    def fit(self) -> Sequence[Any]:
        """The inputs that candidates are chosen and recovered by."""
        return self.inputs[: HeldOut.split(len(self.inputs))]

    @property
    def seen(self) -> Sequence[Any]:
        """The same batches as they were given, with their labels."""
        return self.data[: HeldOut.split(len(self.data))]

    @cached_property
    def parts(self) -> tuple[tuple[Sequence[Any], HeldOut], ...]:
        """The data in quarters from the end: for each the inputs of all others, and itself to judge by.

        The first is what the choice does not see. There are fewer of less than four batches, and one of one.
        """
        inputs, size = self.inputs, len(self.held.batches)
        found = [(self.fit, self.held)]
        for end in range(len(inputs) - size, size - 1, -size)[:3]:
            numbers = range(end - size, end)
            judged = [inputs[number] for number in numbers]
            others = [*inputs[: end - size], *inputs[end:]]
            found.append((others, HeldOut.on(self.dense, judged, numbers, "", self.state)))
        return tuple(found)

    @property
    def words(self) -> str:
        """What all parts together are, in words."""
        count = len(self.parts)
        if count == 1:
            return self.held.words
        return f"{count} parts of the data, each recovered by the others"

    def some(self, share: float, part: int = 0) -> Sequence[Any]:
        """A share of the inputs to fit by, at least one batch, evenly from all of them."""
        fit = self.parts[part][0] if part else self.fit
        count = max(1, round(share * len(fit)))
        return [fit[at] for at in np.linspace(0, len(fit) - 1, count).round().astype(int)]


def require_comparable(ask: Filled, model: nn.Module, *, has_data: bool) -> None:
    """Refuse a search, or a choice of depth, that makes no sense.

    Args:
        ask: What is asked for.
        model: The dense model.
        has_data: Whether there are batches.

    Raises:
        RequestError: There is no data, or a budget or scope that leaves nothing to be tried.
    """
    words = [word for word, asked in (("search", ask.search is not None), ("depth", ask.depth)) if asked]
    if not words:
        return
    what, budget = " and ".join(words), ask.budget
    if not has_data:
        raise RequestError(
            f"{what} was asked for without data",
            ["candidates are judged by what the network puts out"],
            "pass data=, batches of inputs without labels; a few hundred samples do",
        )
    if budget.names_groups:
        raise RequestError(
            f"{what} was asked for, and {budget} says what each group loses",
            do="ask for a budget over all groups, such as macs=0.5",
        )
    if budget.is_timed and ask.search is not None:
        raise RequestError(
            f"search was asked for, and {budget} is measured, not counted",
            ["each candidate would have to be timed"],
            "ask for macs, params, size_bytes or memory, or leave search out",
        )
    if ask.depth and (budget.at_most or isinstance(ask.min_keep, Mapping)):
        raise RequestError(
            "depth was asked for, and shares for groups by name",
            ["names move where a block is dropped"],
            "give one min_keep for all groups and no channels beside the budget, or leave depth out",
        )
    if ask.search is not None and scopes[ask.scope].is_even:
        raise RequestError(
            f"search was asked for, and scope '{ask.scope}' gives every group the same share",
            do="leave the scope out, or take 'curves', 'global' or 'isomorphic'",
        )
    require_values(model)


def plain_steps(ask: Filled) -> tuple[str, ...]:
    """The recovery steps of a request that take no gradients, in order."""
    asked = (ask.recover,) if isinstance(ask.recover, str) else tuple(ask.recover or ())
    return tuple(name for name in asked if not registered[name].is_learned)


@dataclass(frozen=True, eq=False)
class WidthSearch:
    """Tries widths beside those that were chosen.

    Attributes:
        recorded: The model; not changed.
        groups: Its groups.
        offer: What the scope chose, and the widths beside it.
        ask: The request.
        compared: The batches.
        plan_of: From what stays of each group to a plan.
        settler: Cuts and proves the widths that are taken.
    """

    recorded: Recorded
    groups: Groups
    offer: Offer
    ask: Filled
    compared: Compared
    plan_of: Callable[[Selection], Plan]
    settler: Settler

    def best(self, chosen: Attempt, say: Callable[[str], None] = say_on_terminal) -> Attempt:
        """The best widths that can be cut.

        Args:
            chosen: The cut that the scope chose, which is right.
            say: Told how far the search is.

        Returns:
            The best cut, proven as the chosen one is; that one if no other is better.
        """
        assert self.ask.search is not None, "a search was asked for"
        ranked, start, tried = search_widths(
            self.offer.widths,
            self.offer.kept,
            self.offer.choice.wanted,
            self._judge,
            tries=self.ask.search,
            parts=len(self.compared.parts),
            seed=self.ask.seed,
            say=say,
        )
        for one in ranked:
            found = Searched(tried=tried, before=start.error, after=one.error, judged_on=self.compared.words)
            plan = self.plan_of(self.offer.selection(one.kept, found))
            if one is start:
                break
            attempt = self.settler.settle(self.groups, plan)
            if not attempt.vetoes:
                return attempt
        made = chosen.plan.model_copy(update={"account": plan.account})
        return Attempt(made, chosen.model, chosen.graph, chosen.verdict)

    def _judge(self, kept: Sequence[int], share: float, part: int) -> float:
        """The output error of the network that is cut and recovered so; infinite if it cannot be cut so."""
        settler = Settler(
            self.recorded,
            check=False,
            seed=self.ask.seed,
            corrections=self.ask.corrections,
            uniform=self.ask.uniform,
        )
        try:
            attempt = settler.settle(self.groups, self.plan_of(self.offer.selection(kept)))
        except CutError:
            return inf
        if attempt.vetoes:
            return inf
        cut, steps = attempt.model, plain_steps(self.ask)
        if steps:
            subject = Subject(
                original=self.recorded.model,
                cut=cut,
                example_inputs=self.recorded.inputs,
                groups=self.groups,
                kept=kept_by(attempt.plan, self.groups),
                data=self.compared.some(share, part),
            )
            cut = recover(subject, steps)[0]
        return self.compared.parts[part][1].error(cut)
