"""Settle: cut a model by a plan, let the integers of its Python follow, prove it; or say what may not be cut.

    cut -> compare records -> deviates?  fields and calls follow (cut/follow.py) -> compare again
                           -> deviates?  the axes behind the first deviation are vetoed
        -> compare numbers -> differ?    the axes behind the first operator that differs are vetoed

A veto costs a saving, never a wrong model: the caller selects again without the vetoed groups.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from secateur.capture import Trace, cast_inputs, record, trace
from secateur.capture.copies import copy_module
from secateur.capture.shadow import shadow
from secateur.capture.switches import garbage_waits
from secateur.configs.fields import Described
from secateur.coupling import Groups, Recorded
from secateur.cut import Followed, follow_integers, follow_lists, follow_unread
from secateur.errors import CheckError, CutError, UnstablePathError
from secateur.graph.axes import Axis
from secateur.graph.keep import Kept
from secateur.graph.node import Graph
from secateur.graph.origin import Field
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
from secateur.proof.served import Served


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
        refused: Why the code around a node of the original, by index, cannot be corrected.
        torn: The axes, by such a node, that ask different numbers of the code.
    """

    plan: Plan
    model: nn.Module
    graph: Graph
    verdict: Verdict | None = None
    deviation: Deviation | None = None
    suspects: tuple[str, ...] = ()
    vetoes: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    torn: Mapping[int, frozenset[Axis]] = field(default_factory=dict)


class Settler:
    """Cuts one model by plans until one is right.

    Args:
        recorded: The original; not changed.
        check: Prove by number, too.
        seed: For the random numbers of the proof.
        corrections: Correct code; else what needs it is vetoed.
        uniform: The config of the model must say what the cut one is, if it has one.
    """

    def __init__(
        self,
        recorded: Recorded,
        *,
        check: bool = True,
        seed: int = 0,
        corrections: bool = True,
        uniform: bool = False,
    ) -> None:
        self.recorded = recorded
        self.model, self.graph = recorded.model, recorded.graph
        self.check = check
        self.seed = seed
        self.corrections = corrections
        self.uniform = uniform
        self._follows = False
        self._apart = False
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
            return replace(attempt, vetoes=_suspects(groups, attempt))
        attempt = self._with_config(groups, attempt)
        if attempt.vetoes or not self.check:
            return attempt
        verdict = self._verify(groups, attempt)
        if verdict.passed:
            return replace(attempt, verdict=verdict)
        culprits = self._blame(groups, plan, verdict.suspects)
        if not culprits:
            raise CheckError(
                f"the cut model is not proven: {verdict.failure}",
                do="pass other example inputs, or report this model; nothing was changed",
            )
        reason = f"the cut model computes other numbers than the masked one ({verdict.failure})"
        return replace(attempt, verdict=verdict, vetoes=dict.fromkeys(culprits, reason))

    @cached_property
    def described(self) -> Described | None:
        """The model with the config that it is built from; None if it is built from none."""
        return Described.of(self.model)

    def _with_config(self, groups: Groups, attempt: Attempt) -> Attempt:
        """Let the model's config say what is left, if it can and the model takes the same path with it.

        To know that, the model's class is called; unasked only where there is a `config`, as libraries do.
        """
        if not (self.uniform or hasattr(self.model, "config")) or not _cut_groups(attempt.plan):
            return attempt
        if self.described is None:
            return attempt
        kept = kept_by(attempt.plan, groups)
        edits = self.described.edits(groups, kept)
        if edits is not None:
            plan = attempt.plan.model_copy(update={"numbers": self.described.numbers(edits)})
            again = replace(self._try(groups, plan, kept), refused=attempt.refused, torn=attempt.torn)
            if again.deviation is None and self._is_served(groups, kept, again):
                return again
        return replace(attempt, vetoes=self._unsaid(groups, attempt.plan)) if self.uniform else attempt

    def _unsaid(self, groups: Groups, plan: Plan) -> dict[str, str]:
        """The groups whose cut no config says: those that fail alone, else those that most tensors hold."""
        cut = [group.name for group in _cut_groups(plan)]
        classes = dict.fromkeys(tuple(sorted(_with_ties(groups, [name]))) for name in cut)
        ranked = sorted(classes, key=lambda names: max(len(groups[name].members) for name in names))
        failing = [names for names in ranked if len(ranked) > 1 and not self._is_said(groups, plan, names)]
        sizes = ", ".join(
            f"{group.name} {group.size} -> {len(group.keep)}" for group in _cut_groups(plan)[:4]
        )
        reason = f"uniform: no config of the model says this cut ({sizes})"
        return {name: reason for names in failing or ranked[-1:] for name in names}

    def _is_said(self, groups: Groups, plan: Plan, names: Sequence[str]) -> bool:
        alone = self._cut(groups, plan.restricted_to(names))
        return alone.deviation is None and bool(self._with_config(groups, alone).plan.numbers)

    @cached_property
    def _trace(self) -> Trace | None:
        """Where the integers of the model come from; looked for when it is first needed."""
        return trace(self.model, self.recorded.inputs, self.graph)

    @cached_property
    def _served(self) -> tuple[Served, ...]:
        """The model as it is called otherwise than on the example."""
        return tuple(Served(*other) for other in self.recorded.others)

    @garbage_waits()
    def _cut(self, groups: Groups, plan: Plan) -> Attempt:
        """Cut and compare the records, those of other calls as well."""
        kept = kept_by(plan, groups)
        at_once = self._with_unread_at_once(groups, plan, kept)
        if at_once is not None:
            return at_once
        attempt = self._cut_on_example(groups, plan, kept)
        if attempt.deviation is not None:
            return attempt
        more = self._with_unread(groups, kept, attempt)
        if more is not attempt and self._is_served(groups, kept, more):
            return more
        attempt = self._with_served(groups, kept, attempt)
        if attempt.deviation is not None:
            return attempt
        more = self._with_unread(groups, kept, attempt)
        return more if more is attempt or self._is_served(groups, kept, more) else attempt

    def _with_unread_at_once(self, groups: Groups, plan: Plan, kept: Kept) -> Attempt | None:
        """Cut with the integers that follow though no record reads them; None where that is not all there is.

        As a rule the model takes the same path with them, and one record says so.
        """
        fields = {} if self._follows or self._apart else follow_unread(self.model, plan.widths)
        if not fields:
            return None
        attempt = self._try(groups, plan.following(Followed(fields, plan.corrections)), kept)
        if attempt.deviation is None:
            attempt = self._with_unread(groups, kept, attempt)
            if self._is_served(groups, kept, attempt):
                return attempt
        self._apart = True
        return None

    def _is_served(self, groups: Groups, kept: Kept, attempt: Attempt) -> bool:
        """Whether a cut model does what is predicted in other calls, too."""
        return all(served.compare(groups, kept, attempt.model)[0] is None for served in self._served)

    def _with_served(self, groups: Groups, kept: Kept, attempt: Attempt) -> Attempt:
        """Let integers follow that other calls read."""
        for served in self._served:
            deviation, suspects = served.compare(groups, kept, attempt.model)
            followed = served.follow(groups, kept, attempt.plan) if deviation is not None else None
            if followed is not None:
                attempt = self._try(groups, followed, kept)
                if attempt.deviation is not None:
                    return attempt
                deviation, suspects = served.compare(groups, kept, attempt.model)
            if deviation is not None and not served.is_by_numbers:
                return replace(attempt, deviation=deviation, suspects=suspects)
        return attempt

    def _with_unread(self, groups: Groups, kept: Kept, attempt: Attempt) -> Attempt:
        """Let integers follow that no record reads, if the model takes the same path with them."""
        fields = follow_unread(self.model, attempt.plan.widths)
        fields |= follow_lists(self.model, attempt.plan.widths, self.graph, attempt.graph)
        width = Field("", ("num_features",))
        for name, before in _contracts(self.model) if width not in fields else ():
            sizes = zip(self._sizes_of(self.model, name), self._sizes_of(attempt.model, name), strict=False)
            after = [now for was, now in sizes if was == before]
            if len(after) == 1 and after[0] != before:
                fields[width] = after[0]
        for is_traced in dict.fromkeys((self._follows or self._apart, True)):
            if is_traced and self._trace is not None:
                fields = {held: now for held, now in fields.items() if held not in self._trace.read}
            if not fields:
                break
            plan = attempt.plan.following(Followed(fields, attempt.plan.corrections))
            again = replace(self._try(groups, plan, kept), refused=attempt.refused, torn=attempt.torn)
            if again.deviation is None:
                return again
        return attempt

    def _cut_on_example(self, groups: Groups, plan: Plan, kept: Kept) -> Attempt:
        """Cut and compare; once a model has needed its integers to follow, they do at once."""
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
        held: dict[Any, Any] = {}
        while True:
            followed = follow_integers(groups, kept, trace, held)
            attempt = replace(
                self._try(groups, plan.following(followed), kept),
                refused=followed.refused,
                torn=followed.torn,
            )
            scalars = scalars_that_differ(groups, attempt.graph, self._varying) if attempt.deviation else {}
            if not scalars.keys() - held.keys():
                return attempt
            held = {**scalars, **held}

    def _sizes_of(self, model: nn.Module, method: str) -> tuple[int, ...]:
        """The sizes of what a method of a model returns for the example inputs; none if it does not run."""
        held = shadow(model)
        held.forward = getattr(held, method)
        graph, failure = record(held, self.recorded.inputs, self.graph.substrate)
        return graph.values[graph.outputs[0]].shape if failure is None and graph.outputs else ()

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

    @garbage_waits()
    def _try(self, groups: Groups, plan: Plan, kept: Kept) -> Attempt:
        if not self.corrections:
            plan = plan.model_copy(update={"corrections": {}})
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

    @garbage_waits()
    def _verify(self, groups: Groups, attempt: Attempt) -> Verdict:
        recorded = self.recorded
        return verify(self.model, attempt.model, recorded.inputs, groups, attempt.plan, self.seed, recorded)

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


def _contracts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """What timm's networks promise: the width of what `forward_features` returns is `num_features`."""
    promised = getattr(model, "num_features", None)
    if type(promised) is int and callable(getattr(model, "forward_features", None)):
        yield "forward_features", promised


def _cut_groups(plan: Plan) -> list[Any]:
    return [group for group in plan.groups if len(group.keep) < group.size]


def _with_ties(groups: Groups, names: Sequence[str]) -> set[str]:
    """The groups and those that must keep equal counts with them."""
    chosen = set(names)
    return chosen.union(*(tied for tied, _ in groups.ties if chosen & set(tied)))


def _suspects(groups: Groups, attempt: Attempt) -> dict[str, str]:
    """The groups behind a deviation, with the reason: those that one number in the code cannot all serve."""
    deviation = attempt.deviation
    assert deviation is not None, "asked for a deviating attempt"
    cut = {group.name for group in _cut_groups(attempt.plan)}
    at = deviation.node.index if deviation.node else -1
    torn = [groups.name_of[axis] for axis in attempt.torn.get(at, ()) if axis in groups.name_of]
    found = [name for name in torn if name in cut] or [name for name in attempt.suspects if name in cut]
    if not found:
        raise CutError(
            "the cut model cannot follow its plan",
            [str(deviation)],
            "protect the module that the line names",
        )
    why = attempt.refused.get(at, "")
    reason = f"the model's code does not follow a cut ({deviation}{why and '; '}{why})"
    return dict.fromkeys(found, reason)
