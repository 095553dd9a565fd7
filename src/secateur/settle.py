"""Settle: cut a model by a plan, let the integers of its Python follow, prove it; or say what may not be cut.

    cut -> compare records -> deviates?  fields and calls follow (cut/follow.py) -> compare again
                           -> deviates?  the axes behind the first deviation are vetoed
        -> compare numbers -> differ?    the axes behind the first operator that differs are vetoed

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
from secateur.coupling import Groups, Recorded
from secateur.cut import follow_integers, hold_scalars
from secateur.errors import CheckError, CutError, UnstablePathError
from secateur.graph.keep import Kept
from secateur.graph.node import Graph
from secateur.plans.plan import Plan
from secateur.proof import (
    Deviation,
    Varying,
    Verdict,
    compare_records,
    find_varying,
    kept_by,
    regroup,
    scalars_that_differ,
    verify,
)
from secateur.proof.drawing import precise
from secateur.proof.masking import mask_model


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
        recorded: The original; not changed.
        check: Prove by number, too.
        seed: For the random numbers of the proof.
    """

    def __init__(self, recorded: Recorded, *, check: bool = True, seed: int = 0) -> None:
        self.recorded = recorded
        self.model, self.graph = recorded.model, recorded.graph
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
        culprits = self._blame(groups, plan, verdict.suspects)
        if not culprits:
            raise CheckError(
                f"the cut model is not proven: {verdict.failure}",
                do="pass other example inputs, or report this model; nothing was changed",
            )
        reason = f"the cut model computes other numbers than the masked one ({verdict.failure})"
        return _with(attempt, verdict=verdict, vetoes=dict.fromkeys(culprits, reason))

    @cached_property
    def _trace(self) -> Trace | None:
        """Where the integers of the model come from; looked for when it is first needed."""
        return trace(self.model, self.recorded.inputs, self.graph)

    def _cut(self, groups: Groups, plan: Plan) -> Attempt:
        """Cut and compare the records; once a model has needed its integers to follow, they do at once."""
        kept = kept_by(plan, groups)
        if not self._follows:
            attempt = self._try(groups, plan, kept)
            if attempt.deviation is None or self._trace is None:
                return attempt
            self._follows = True
        if self._trace is None:
            return self._try(groups, plan, kept)
        return self._follow(groups, plan, kept, self._trace)

    def _follow(self, groups: Groups, plan: Plan, kept: Kept, trace: Trace) -> Attempt:
        """Let fields and calls follow; then hold the scalars that still come out otherwise."""
        followed = follow_integers(groups, kept, trace)
        known: set[object] = set()
        while True:
            attempt = self._try(groups, plan.following(followed), kept)
            scalars = scalars_that_differ(groups, attempt.graph, self._varying) if attempt.deviation else {}
            if not scalars.keys() - known:
                return attempt
            known |= scalars.keys()
            followed = followed.holding(hold_scalars(groups, kept, trace, scalars))

    @cached_property
    def _varying(self) -> Varying:
        """What depends on the numbers that the model looks at."""
        return find_varying(self.recorded, self.seed)

    def _require_stable(self) -> None:
        """Tell a model that runs differently the second time from one that a cut leads astray.

        Raises:
            UnstablePathError: It fills a cache at its first run.
        """
        again, _ = self.recorded.record(self.model)
        if [node.op for node in again.nodes] != [node.op for node in self.graph.nodes]:
            raise UnstablePathError(
                "the model takes another path each time", do="pass a model that ran before"
            )

    def _try(self, groups: Groups, plan: Plan, kept: Kept) -> Attempt:
        cut = plan.apply(self.model)
        graph, failure = self.recorded.record(cut)
        deviation = compare_records(groups, kept, graph, failure, self._varying)
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
        inputs = cast_inputs(self.recorded.inputs, torch.float64)
        kept = kept_by(plan, groups)
        masked = mask_model(copy_module(self.model), groups, kept, torch.float64)
        found, _ = regroup(masked, inputs, groups, kept)
        if found is None:
            return None
        again, kept = found
        graph, failure = record(
            precise(copy_module(cut), torch.float64), inputs, "real", state=self.graph.state
        )
        return compare_records(again, kept, graph, failure), again

    def _verify(self, groups: Groups, attempt: Attempt) -> Verdict:
        return verify(self.model, attempt.model, self.recorded.inputs, groups, attempt.plan, self.seed)

    def _blame(self, groups: Groups, plan: Plan, names: Sequence[str]) -> list[str]:
        """Find which of some suspects make the numbers differ when they are cut without the others.

        By bisection. Where only a combination does, all of it is to blame; a single one is taken at the word
        of the operator that named it.
        """
        if len(names) <= 1:
            return list(names)
        half = len(names) // 2
        found = [
            name
            for part in (names[:half], names[half:])
            if self._is_wrong(groups, plan, part)
            for name in self._blame(groups, plan, part)
        ]
        return found or list(names)

    def _is_wrong(self, groups: Groups, plan: Plan, names: Sequence[str]) -> bool:
        """Whether a cut of these groups alone differs, too."""
        attempt = self._cut(groups, plan.restricted_to(_with_ties(groups, names)))
        return attempt.deviation is not None or not self._verify(groups, attempt).passed


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
