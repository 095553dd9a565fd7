"""Joint: whole residual blocks and widths in one budget.

    for d = 0, 1, 2, ...: drop the d blocks that are cheapest, meet the rest of the budget by widths, judge

A block is cheap where the squared output error of the network without it is small for what it saves of the
budget. Where the request refits, the layers behind are refitted first (`repair`), here by a quarter of the
batches to choose by: an error of 40 % without it is one of 4 % with it (docs/LOG.md). A candidate is judged
as it will be returned: repaired, cut and recovered by the batches to choose by, and run on those held out. It
ends with the first d whose dropping alone meets the budget, or loses as much as the best candidate does in
all: more blocks and narrower layers add to it as a rule. The network with all its blocks, d = 0, is always a
candidate. The next block to go is the cheapest beside those that are gone, of the four that are cheapest
alone. B blocks take B quarter repairs, and each d four more, a repair and what `prune` takes without depth.

References:
    Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024, sections
    3.1 and 4: depth beside width at the same cost. https://arxiv.org/abs/2403.03853
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any, TypeAlias

from torch import nn

from secateur.asking import Filled
from secateur.costs import cost_of
from secateur.costs.meter import CostMeter
from secateur.coupling import Groups, couple_graph, on_any_substrate
from secateur.coupling.model import couple
from secateur.coupling.protect import protected_names, tensors_fitting
from secateur.depth.drop import Dropped, Dropper, drop_blocks
from secateur.depth.repair import repaired
from secateur.errors import CheckError, CutError, RequestError
from secateur.plans.memory import remember
from secateur.plans.plan import Account
from secateur.proof import Verdict
from secateur.recovery import Recovered, Recovery, say_on_terminal
from secateur.recovery.loss import HeldOut
from secateur.result import Result, recover_result
from secateur.score.criterion import as_criterion
from secateur.searching import Compared, plain_steps
from secateur.timing import Timing

_SHORTLIST = 4
"""Of how many blocks it is asked anew what they cost beside those that are gone."""

CutWidths: TypeAlias = Callable[[nn.Module, Filled], Result]
"""Cuts widths of a model as a request asks, proves it, and leaves the weights as they are."""


@dataclass(frozen=True)
class RankedBlock:
    """A block, and what its going does.

    Attributes:
        name: Its qualified name.
        error: Output error of the network without it, |cut - dense| / |dense|.
        saves: What that saves, in the budget's units.
    """

    name: str
    error: float
    saves: float

    @property
    def price(self) -> float:
        """Squared error for each unit saved; infinite where nothing is saved."""
        return self.error**2 / self.saves if self.saves > 0 else inf


@dataclass(frozen=True, eq=False)
class _Tried:
    """A number of blocks that was tried.

    Attributes:
        names: The blocks that were dropped.
        result: What came out, before the recovery that is returned.
        error: Output error after a recovery, on the batches held out.
        left: What was left of the budget's units before any width was cut.
        dropped: The model without the blocks; None where none was dropped.
    """

    names: tuple[str, ...]
    result: Result
    error: float
    left: float
    dropped: Dropped | None = None


def prune_jointly(
    model: nn.Module,
    example_inputs: Any,
    ask: Filled,
    compared: Compared,
    cut_widths: CutWidths,
    say: Callable[[str], None] = say_on_terminal,
) -> Result:
    """Drop as many blocks as leave the smallest output error at a budget, and meet the rest by widths.

    Args:
        model: The dense model; not changed.
        example_inputs: As for `prune`.
        ask: The request, with names for what it holds of the model.
        compared: The batches to choose by, and those to judge by.
        cut_widths: Meets a budget by widths.
        say: Told of each number of blocks that is tried.

    Returns:
        The best cut, whose widths are not recovered yet. Where blocks were dropped its plan is a chain: first
        they go, then channels. Its `original` is then the repaired model without the blocks. A `Dropped`
        where no width had to be cut.

    Raises:
        RequestError: The budget counts nothing that a block has, or cannot be met; or no block can be
            dropped.
    """
    return _Joint(model, example_inputs, ask, compared, cut_widths, say).best()


class _Joint:
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        ask: Filled,
        compared: Compared,
        cut_widths: CutWidths,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.example_inputs, self.ask = model, example_inputs, ask
        self.compared, self.cut_widths, self.say = compared, cut_widths, say
        self.steps = plain_steps(ask)
        self.protect = protected_names(model, ask.protect)
        self.groups = couple(model, example_inputs, self.protect, ask.axes, ask.state, ask.outputs)
        self.costs = _Costs(model, example_inputs, ask, self.groups)
        self.whole = self.costs.whole
        self.target = ask.budget.target(self.whole)

    def best(self) -> Result:
        self.say(f"depth: {len(self.ranked)} blocks that may go, {self.ranked[0].name} the cheapest")
        tried: list[_Tried] = []
        refused: dict[tuple[str, ...], RequestError] = {}
        names: tuple[str, ...] | None = ()
        while names is not None:
            begun = time.perf_counter()
            try:
                one, is_last = self._try(names, min((held.error for held in tried), default=inf))
            except RequestError as error:  # widths alone may not meet the budget
                refused[names] = error
                one, is_last = None, False
            except (CutError, CheckError) as error:  # each block can go, but not all of these
                if not names:
                    raise
                self.say(f"depth: not without {', '.join(names)}: {error.what}")
                break
            if one is not None:
                tried.append(one)
                seconds = time.perf_counter() - begun
                self.say(
                    f"depth: output error {_in_words(one)}, in {seconds:.0f} s; one block more takes as long"
                )
            names = None if is_last else self._with_next(names)
        if not tried:
            raise next(iter(refused.values()))
        said = [*map(_in_words, tried), *(f"not {_which(held)}: {why.what}" for held, why in refused.items())]
        return self._told(min(tried, key=lambda held: held.error), "; ".join(said))

    def _try(self, names: tuple[str, ...], best: float) -> tuple[_Tried | None, bool]:
        """Drop some blocks and meet the rest by widths; None if it cannot win, and whether more cannot."""
        if not names:
            return self._judged((), self.cut_widths(self.model, self._all_by_widths()), self.whole), False
        dropped = self._dropped(names)
        if self.compared.held.error(dropped.model) >= best:
            return None, True
        left = self._left(dropped)
        if left <= self.target:
            return self._judged(names, dropped, left, dropped), True
        budget = self.ask.budget.leaving(self.target, left)
        rest = replace(self.ask, budget=budget, depth=False, protect=self._protected_in(dropped))
        return self._judged(names, self.cut_widths(dropped.model, rest), left, dropped), False

    def _all_by_widths(self) -> Filled:
        """The request where no block goes; one in milliseconds as a share of what the model took here."""
        ask = self.ask
        if not ask.budget.is_timed:
            return ask
        return replace(ask, budget=ask.budget.leaving(self.target, self.whole))

    def _dropped(self, names: Sequence[str]) -> Dropped:
        """The model without some blocks, repaired if the request refits."""
        ask, held = self.ask, self.compared.held
        dropped = drop_blocks(self.model, self.example_inputs, blocks=names, check=ask.check, seed=ask.seed)
        if "refit" not in self.steps:
            return dropped
        before = held.error(dropped.model)
        whole, notes = self._repaired(names, self.compared.fit)
        model = dropped.plan.apply(whole)
        error = Recovered("refit", before, held.error(model), held.words)
        return replace(dropped, model=model, recovered=notes, errors=(error,))

    def _repaired(self, names: Sequence[str], data: Sequence[Any]) -> tuple[nn.Module, tuple[Recovery, ...]]:
        def on(substrate: str) -> tuple[nn.Module, tuple[Recovery, ...]]:
            dropper = self._dropper(substrate)
            blocks = [dropper.found.droppable[name] for name in names]
            return repaired(self.model, self.example_inputs, dropper.groups, blocks, data)

        return on_any_substrate(on, "fake")

    def _dropper(self, substrate: str) -> Dropper:
        return Dropper(self.model, self.example_inputs, substrate, check=False, seed=self.ask.seed)

    def _left(self, dropped: Dropped) -> float:
        """What is left of the budget's units without the blocks."""
        ask = self.ask
        groups = couple(dropped.model, self.example_inputs, state=ask.state, outputs=ask.outputs)
        return self.costs.of(dropped.model, groups)

    def _protected_in(self, dropped: Dropped) -> tuple[str, ...]:
        """What is protected, by the names that tensors have without the blocks."""
        found = (dropped.plan.renamed(name) for name in tensors_fitting(self.groups.graph, self.protect))
        return tuple(name for name in found if name is not None)

    def _judged(
        self, names: tuple[str, ...], result: Result, left: float, dropped: Dropped | None = None
    ) -> _Tried:
        """With the output error after a recovery by the batches to choose by."""
        model = result.model
        if self.steps and result is not dropped:
            model = recover_result(result, self.compared.fit, self.steps).model
        return _Tried(names, result, self.compared.held.error(model), left, dropped)

    def _with_next(self, names: tuple[str, ...]) -> tuple[str, ...] | None:
        """Some blocks and the one that is cheapest beside them; None if there is no other."""
        if not names:
            return (self.ranked[0].name,)
        known = [block.name for block in self.ranked if block.name not in names][:_SHORTLIST]
        found = on_any_substrate(lambda on: self._rank(self._dropper(on), names, known), "fake")
        return (*names, min(found, key=lambda block: block.price).name) if found else None

    @cached_property
    def ranked(self) -> list[RankedBlock]:
        """The blocks that may go, by what each costs alone, the cheapest first.

        Raises:
            RequestError: There is none.
        """
        return sorted(on_any_substrate(self._rank_alone, "fake"), key=lambda block: block.price)

    def _rank_alone(self, substrate: str) -> list[RankedBlock]:
        dropper = self._dropper(substrate)
        kept = tensors_fitting(self.groups.graph, self.protect)
        reasons = dict(dropper.found.reasons)
        open_blocks: list[str] = []
        for block in dropper.found.blocks:
            if any(name.startswith(f"{block.name}.") for name in kept):
                reasons[block.name] = "it is protected"
            elif (problem := dropper.drop([block]).problem) is not None:
                reasons[block.name] = problem
            else:
                open_blocks.append(block.name)
        if not open_blocks:
            raise RequestError(
                "depth was asked for, and no block can be dropped",
                [f"{name}: {reason}" for name, reason in reasons.items()],
                "leave depth out; a block returns its input plus something, in the same shape",
            )
        return self._rank(dropper, (), open_blocks)

    def _rank(self, dropper: Dropper, gone: Sequence[str], names: Sequence[str]) -> list[RankedBlock]:
        """What each of some blocks costs where others are gone already."""
        data, found = self.compared.some(0.25), dropper.found.blocks
        judged = HeldOut.on(self.model, data, range(len(data)), "", self.groups.graph.state)
        ranked: list[RankedBlock] = []
        for name in names:
            blocks = [block for block in found if block.name == name or block.name in gone]
            attempt = dropper.drop(blocks)
            if attempt.problem is not None:
                continue
            model = attempt.model
            if "refit" in self.steps:
                whole, _ = repaired(self.model, self.example_inputs, dropper.groups, blocks, data)
                model = attempt.plan.apply(whole)
            saves = self.costs.saved(couple_graph(attempt.graph))
            ranked.append(RankedBlock(name, judged.error(model), saves))
        return ranked

    def _told(self, best: _Tried, said: str) -> Result:
        """The best result, whose plan says what was tried."""
        result, ask, dropped = best.result, self.ask, best.dropped
        plan = result.plan
        count = f"{len(best.names)} block{'s' if len(best.names) > 1 else ''}" if best.names else "no block"
        note = f"depth tried: {count} dropped; output error on {self.compared.held.words}: {said}"
        account = plan.account
        if account is None or dropped is result:
            account = Account(
                kind=ask.budget.kind,
                whole=self.whole,
                wanted=self.target,
                reached=best.left,
                criterion=as_criterion(ask.criterion).name,
                scope=ask.scope,
            )
        about = {"whole": self.whole, "wanted": self.target, "notes": (note, *account.notes)}
        if ask.budget.is_timed:
            before = self.whole if dropped is result else best.left
            about |= {
                "reached": account.reached * before / account.whole,
                "measured": self.costs.of(result.model, result.groups),
            }
        plan = plan.model_copy(update={"requested": ask.request, "account": account.model_copy(update=about)})
        remember(result.model, plan)
        result = replace(result, plan=plan, before=cost_of(self.model, self.groups))
        if dropped is None:
            return result
        if dropped is best.result:
            return replace(dropped, plan=plan, before=result.before, notes=(*dropped.notes, note))
        return replace(
            result,
            verdict=_both(dropped.verdict, result.verdict),
            recovered=dropped.recovered,
            errors=dropped.errors,
            dense=self.model,
        )


class _Costs:
    """What networks cost in the budget's units: as counted, or as timed on this machine.

    Args:
        model: The dense model.
        example_inputs: As for `prune`.
        ask: The request.
        groups: The dense model's groups.

    Attributes:
        whole: What the dense model costs.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, ask: Filled, groups: Groups) -> None:
        self._ask = ask
        self._timing = Timing(model, example_inputs) if ask.budget.is_timed else None
        if self._timing is not None:
            self._timing.gauge(groups)
        self.whole = _meter(ask, groups).at({}) if self._timing is None else self._timing.whole_ms

    def saved(self, groups: Groups) -> float:
        """What a network costs less than the dense one; of a latency, by the times of its calls."""
        if self._timing is None:
            return self.whole - _meter(self._ask, groups).at({})
        return self.whole - self._timing.predict(groups)

    def of(self, model: nn.Module, groups: Groups) -> float:
        """What a network costs; a latency is measured."""
        return _meter(self._ask, groups).at({}) if self._timing is None else self._timing.time(model)


def _meter(ask: Filled, groups: Groups) -> CostMeter:
    """What counts the budget.

    Raises:
        RequestError: It counts channels, which blocks that go do not have less of.
    """
    meter = ask.budget.meter(groups)
    if meter is None:
        raise RequestError(
            f"depth was asked for, and {ask.budget} counts channels, not what blocks cost",
            do="ask for macs, params, size_bytes, memory or latency_ms",
        )
    return meter


def _which(names: Sequence[str]) -> str:
    return f"without {', '.join(names)}" if names else "with all blocks"


def _in_words(one: _Tried) -> str:
    return f"{_which(one.names)} {100 * one.error:.3g} %"


def _both(first: Verdict | None, second: Verdict | None) -> Verdict | None:
    """The verdict on two cuts in a row, both of which are proven."""
    if first is None or second is None:
        return None
    worse = max(first, second, key=lambda one: one.relative_error / one.tolerance)
    return replace(
        worse,
        renormalised_by=(*first.renormalised_by, *second.renormalised_by),
        nodes=first.nodes + second.nodes,
        compared=first.compared + second.compared,
        limits=tuple(dict.fromkeys((*first.limits, *second.limits))),
    )
