"""Settle: cut a model by a plan, let the integers of its Python follow, prove it; or say what may not be cut.

    cut -> compare records -> deviates?  fields and calls follow (cut/follow.py) -> compare again
                           -> deviates?  the axes behind the first deviation are vetoed
        -> compare numbers -> differ?    the groups are bisected, the culprits vetoed

A veto costs a saving, never a wrong model: the caller selects again without the vetoed groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from secateur.capture import Trace, cast_inputs, record, trace
from secateur.capture.copies import copy_module
from secateur.coupling import Groups
from secateur.cut import follow_integers, hold_scalars
from secateur.errors import CheckError, CutError, UnstablePathError
from secateur.graph.axes import Axis
from secateur.graph.node import Graph
from secateur.plans.plan import Plan
from secateur.proof import (
    Deviation,
    Varying,
    Verdict,
    compare_records,
    find_varying,
    first_difference,
    keep_masks,
    regroup,
    scalars_that_differ,
    verify,
)
from secateur.proof.numbers import mask_model


@dataclass(frozen=True, eq=False)
class Attempt:
    """A cut, and what spoke against it.

    Attributes:
        plan: The plan as applied, with the integers that follow it.
        model: The cut model.
        graph: Its record.
        verdict: The proof by number; None if it was not asked for or not reached.
        deviation: The first place where the cut model does something else than predicted; None if none.
        suspects: Names of the groups behind it.
        vetoes: Groups that may not be cut so, with the reason; empty if the cut is right.
    """

    plan: Plan
    model: nn.Module
    graph: Graph
    verdict: Verdict | None = None
    deviation: Deviation | None = None
    suspects: tuple[str, ...] = ()
    vetoes: Mapping[str, str] = field(default_factory=dict)


class Settler:
    """Cuts one model by plans until one is right.

    Args:
        model: The original; not changed.
        example_inputs: What it was recorded on.
        graph: Its record.
        check: Prove by number, too.
        seed: For the random numbers of the proof.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, graph: Graph, *, check: bool = True, seed: int = 0
    ) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.graph = graph
        self.check = check
        self.seed = seed
        self._follows = False
        self._is_stable = False

    def settle(self, groups: Groups, plan: Plan) -> Attempt:
        """Cut by a plan.

        Args:
            groups: The groups of the original, with all vetoes so far.
            plan: A choice from them.

        Returns:
            The cut model with its proof, or the groups to veto.

        Raises:
            CutError: The model deviates, and no group that is cut is left to blame.
            CheckError: The numbers differ, and no group is to blame.
        """
        attempt = self._cut(groups, plan)
        if attempt.deviation is not None:
            return _with(attempt, vetoes=_suspects(attempt))
        if not self.check:
            return attempt
        verdict = self._verify(groups, attempt)
        if verdict.passed:
            return _with(attempt, verdict=verdict)
        culprits = self._blame(groups, plan, [group.name for group in _cut_groups(plan)])
        if not culprits:
            raise CheckError(
                f"the cut model is wrong: {verdict.failure}", do="report this model; nothing was changed"
            )
        where = first_difference(
            self.model,
            attempt.model,
            self.example_inputs,
            groups,
            keep_masks(groups, attempt.plan),
            attempt.graph,
            self.seed,
        )
        reason = f"the cut model computes other numbers than the masked one ({verdict.failure})"
        if where is not None:
            reason += f", first at {where}"
        return _with(attempt, verdict=verdict, vetoes=dict.fromkeys(culprits, reason))

    @cached_property
    def _trace(self) -> Trace | None:
        """Where the integers of the model come from; looked for when it is first needed."""
        return trace(self.model, self.example_inputs, self.graph)

    def _cut(self, groups: Groups, plan: Plan) -> Attempt:
        """Cut and compare the records; once a model has needed its integers to follow, they do at once."""
        counts = {held: int(mask.sum()) for held, mask in keep_masks(groups, plan).items()}
        if not self._follows:
            attempt = self._try(groups, plan, counts)
            if attempt.deviation is None or self._trace is None:
                return attempt
            self._follows = True
        if self._trace is None:
            return self._try(groups, plan, counts)
        return self._follow(groups, plan, counts, self._trace)

    def _follow(self, groups: Groups, plan: Plan, counts: Mapping[Axis, int], trace: Trace) -> Attempt:
        """Let fields and calls follow; then hold the scalars that still come out otherwise."""
        changed = {held: left for held, left in counts.items() if left < held.size}
        followed = follow_integers(groups, changed, trace)
        known: set[object] = set()
        while True:
            attempt = self._try(groups, plan.following(followed), counts)
            scalars = scalars_that_differ(groups, attempt.graph, self._varying) if attempt.deviation else {}
            if not scalars.keys() - known:
                return attempt
            known |= scalars.keys()
            followed = followed.holding(hold_scalars(groups, changed, trace, scalars))

    @cached_property
    def _varying(self) -> Varying:
        """What depends on the numbers that the model looks at."""
        return find_varying(self.model, self.example_inputs, self.graph, self.seed)

    def _require_stable(self) -> None:
        """Tell a model that runs differently the second time from one that a cut leads astray.

        Raises:
            UnstablePathError: It fills a cache at its first run.
        """
        again, _ = record(self.model, self.example_inputs, self.graph.substrate)
        if [node.op for node in again.nodes] != [node.op for node in self.graph.nodes]:
            raise UnstablePathError(
                "the model takes another path each time", do="pass a model that ran before"
            )

    def _try(self, groups: Groups, plan: Plan, counts: Mapping[Axis, int]) -> Attempt:
        cut = plan.apply(self.model)
        graph, failure = record(cut, self.example_inputs, self.graph.substrate)
        deviation = compare_records(groups, counts, graph, failure, self._varying)
        if deviation is not None and deviation.is_other_path and not self._is_stable:
            self._require_stable()
            self._is_stable = True
        judged_by = groups
        if deviation is not None and self.graph.substrate == "real":
            deviation, judged_by = self._compare_on_masked(groups, plan, cut) or (deviation, groups)
        suspects = deviation.suspects if deviation else ()
        names = tuple(judged_by.name_of[held] for held in suspects if held in judged_by.name_of)
        return Attempt(plan, cut, graph, deviation=deviation, suspects=names)

    def _compare_on_masked(
        self, groups: Groups, plan: Plan, cut: nn.Module
    ) -> tuple[Deviation | None, Groups] | None:
        """Compare with the record of the masked original instead, where numbers decide the path.

        In float64, so that rounding decides nothing.
        """
        inputs = cast_inputs(self.example_inputs, torch.float64)
        keep = keep_masks(groups, plan)
        found = regroup(mask_model(copy_module(self.model), groups, keep), inputs, groups, keep)
        if found is None:
            return None
        again, masks = found
        graph, failure = record(copy_module(cut).double(), inputs, "real")
        counts = {held: int(mask.sum()) for held, mask in masks.items()}
        return compare_records(again, counts, graph, failure), again

    def _verify(self, groups: Groups, attempt: Attempt) -> Verdict:
        return verify(self.model, attempt.model, self.example_inputs, groups, attempt.plan, self.seed)

    def _blame(self, groups: Groups, plan: Plan, names: Sequence[str]) -> list[str]:
        """Find the groups that make the numbers differ when they are cut without the others, by bisection.

        Where only a combination does, all of it is to blame.
        """
        attempt = self._cut(groups, plan.restricted_to(_with_ties(groups, names)))
        if attempt.deviation is None and self._verify(groups, attempt).passed:
            return []
        if len(names) <= 1:
            return list(names)
        half = len(names) // 2
        found = [*self._blame(groups, plan, names[:half]), *self._blame(groups, plan, names[half:])]
        return found or list(names)


def _with(attempt: Attempt, **changes: Any) -> Attempt:
    return Attempt(**{**vars(attempt), **changes})


def _cut_groups(plan: Plan) -> list[Any]:
    return [group for group in plan.groups if len(group.keep) < group.size]


def _with_ties(groups: Groups, names: Sequence[str]) -> set[str]:
    """The groups and those that must keep equal counts with them."""
    chosen = set(names)
    return chosen.union(*(tied for tied, _ in groups.ties if chosen & set(tied)))


def _suspects(attempt: Attempt) -> dict[str, str]:
    """The groups behind a deviation, with the reason."""
    deviation = attempt.deviation
    assert deviation is not None, "asked for a deviating attempt"
    cut = {group.name for group in _cut_groups(attempt.plan)}
    found = [name for name in attempt.suspects if name in cut]
    if not found:
        raise CutError(
            "the cut model cannot follow its plan",
            [str(deviation)],
            "protect the module that the line names",
        )
    return dict.fromkeys(found, f"the model's code does not follow a cut ({deviation})")
