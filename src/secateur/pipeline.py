"""The pipeline, from a model to a proven smaller one.

model, example -> capture -> couple -> score -> select -> plan -> cut -> check -> result
"""

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from secateur.capture import Trace, capture, trace
from secateur.capture.inputs import without_labels
from secateur.capture.record import record
from secateur.check import Deviation, Verdict, compare_records, keep_masks, scalars_that_differ, verify
from secateur.couple import Groups, couple_graph, has_unused_parameters, read_in_training_only
from secateur.cut import Followed, follow_integers
from secateur.errors import CheckError, CutError, NoEffectWarning, RequestError
from secateur.graph.axes import Axis
from secateur.graph.keep import Mask
from secateur.graph.node import Graph
from secateur.measure import Cost, cost_of
from secateur.plan import Plan, make_plan
from secateur.recover import Recovery, Subject
from secateur.recover import recover as run_recovery
from secateur.recover import steps as recovery_steps
from secateur.score import score
from secateur.score.criterion import Scorer
from secateur.select import Budget, Selection, select
from secateur.write.checkpoint import save_model


@dataclass(frozen=True, eq=False)
class Result:
    """What `prune` returns.

    Attributes:
        model: A new, smaller model of the same class.
        plan: What was kept; applies to any model of the original architecture.
        verdict: The proof; None if it was not asked for.
        before: Cost of the original.
        after: Cost of the cut model.
        groups: The groups of the original, for questions of why.
        original: The uncut model as it was given, for `recover`.
        example_inputs: The inputs it was recorded on.
        recovered: What each recovery step did.
    """

    model: nn.Module = field(repr=False)
    plan: Plan = field(repr=False)
    verdict: Verdict | None
    before: Cost
    after: Cost
    groups: Groups = field(repr=False)
    original: nn.Module = field(repr=False)
    example_inputs: Any = field(repr=False)
    recovered: tuple[Recovery, ...] = ()

    def table(self) -> Table:
        """The table that `print` shows."""
        table = Table("", "before", "after", "left", title=f"pruned {self.plan.model}", title_justify="left")
        rows = [
            ("parameters", self.before.params, self.after.params),
            ("MACs", self.before.macs, self.after.macs),
            ("bytes", self.before.size_bytes, self.after.size_bytes),
            ("channels", *_channels(self.plan)),
        ]
        for name, before, after in rows:
            table.add_row(name, f"{before:,}", f"{after:,}", f"{after / max(before, 1):.1%}")
        return table

    def __str__(self) -> str:
        console = Console(width=110, file=io.StringIO(), color_system=None)
        console.print(self.table())
        console.print(f"asked {self.plan.requested}; removed {self.plan.achieved:.1%} of the channels")
        console.print(
            f"groups that could be cut: {len(self.plan.groups)}, left alone: {len(self.plan.reasons)}"
        )
        console.print(f"check: {self.verdict or 'not asked for'}")
        for recovery in self.recovered:
            console.print(str(recovery), soft_wrap=True)
        output: Any = console.file
        return output.getvalue().rstrip()


def _channels(plan: Plan) -> tuple[int, int]:
    return sum(group.size for group in plan.groups), sum(len(group.keep) for group in plan.groups)


def couple(model: nn.Module, example_inputs: Any, protect: Sequence[str] = ()) -> Groups:
    """Find which channels belong together.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.

    Returns:
        The groups; printing them shows group, size, members, and what is protected and why.

    Raises:
        CaptureError: The model cannot be run on these inputs.
        RequestError: A pattern fits nothing.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        >>> [(group.name, group.size, group.reason) for group in couple(model, torch.zeros(1, 3, 8, 8))]
        [('0', 8, None), ('0#2', 3, 'model input'), ('2', 4, 'model output')]
    """
    graph = capture(model, example_inputs)
    return couple_graph(graph, protect, _training_only(model, example_inputs, graph))


def _training_only(model: nn.Module, example_inputs: Any, graph: Graph) -> dict[str, str]:
    """The groups that parts read which only run in training, with the reason."""
    if not has_unused_parameters(graph):
        return {}
    trained, _ = record(model, example_inputs, graph.substrate, training=True)
    return read_in_training_only(couple_graph(graph), trained)


def measure(model: nn.Module, example_inputs: Any) -> Cost:
    """Count parameters, MACs and bytes.

    Args:
        model: Any module; not changed.
        example_inputs: As for `couple`; MACs are those of one forward pass on them.
    """
    return cost_of(model, couple(model, example_inputs))


def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    channels: Mapping[str, float] | None = None,
    criterion: str | Scorer = "l2",
    scope: str = "global",
    round_to: int = 1,
    min_keep: float = 0.1,
    protect: Sequence[str] = (),
    data: Iterable[Any] | None = None,
    recover: Sequence[str] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Result:
    """Prune a model: couple, score, select, cut, and prove the result.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        ratio: Share of channels to remove, 0 <= ratio < 1: of each group (scope local) or of all together.
        macs: MACs that may stay, as a share up to 1.0 or a count.
        params: Parameters that may stay, as a share up to 1.0 or a count.
        channels: Share of channels to remove by group pattern; other groups stay whole.
        criterion: "l1", "l2", "bn-scale", "random", or a callable from a group's view to scores.
        scope: How channels compare: "global", "local" or "isomorphic".
        round_to: Kept counts are rounded up to a multiple of this; 8 suits most hardware.
        min_keep: Share of each group that always stays, at least one channel.
        protect: Patterns of module or parameter names whose tensors must keep their shapes.
        data: Batches of inputs for recovery steps; labels beside them are ignored.
        recover: Recovery steps to run after the check, such as "absorb"; None leaves the kept weights
            bit-equal to the original's.
        check: Prove that the cut model computes what the masked one does.
        seed: For criteria and checks that draw.

    Returns:
        The new model with its plan, proof and cost.

    Raises:
        RequestError: The request makes no sense, or nothing can be pruned (with the reason of every group).
        CaptureError: The model cannot be run on these inputs.
        CheckError: The cut model does not compute what the masked one does.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = prune(net, torch.zeros(1, 4), ratio=0.5)
        >>> result.model[0].out_features, result.verdict.exact
        (4, True)
    """
    budget = Budget.of(ratio=ratio, macs=macs, params=params, channels=channels)
    for name in recover or ():
        recovery_steps[name]  # an unknown name is better refused before the work than after
    graph = capture(model, example_inputs)
    vetoes = _training_only(model, example_inputs, graph)
    cutter = _Cutter(model, example_inputs, graph)
    while True:
        groups = couple_graph(graph, protect, vetoes)
        scores = score(model, groups, criterion, seed)
        selection = select(groups, scores, budget, scope=scope, min_keep=min_keep, round_to=round_to)
        _require_effect(groups, selection, budget)
        plan = make_plan(model, groups, selection.keep, requested=str(budget), reasons=selection.reasons)
        plan, cut, cut_graph, deviation = cutter.cut(groups, plan)
        if deviation is None:
            break
        _veto(groups, deviation, vetoes)
    verdict = verify(model, cut, example_inputs, groups, plan, seed) if check else None
    if verdict is not None and not verdict.passed:
        raise CheckError(
            f"the cut model is wrong: {verdict.failure}", do="report this model; nothing was changed"
        )
    after = cost_of(cut, couple_graph(cut_graph))
    result = Result(cut, plan, verdict, cost_of(model, groups), after, groups, model, example_inputs)
    return recover_result(result, data, recover) if recover else result


def recover_result(
    result: Result, data: Iterable[Any] | None = None, steps: Sequence[str] = ("absorb",)
) -> Result:
    """Improve a cut model without training.

    Args:
        result: What `prune` returned; not changed.
        data: Batches of inputs; labels beside them are ignored. None where a step can do without.
        steps: Registered recovery steps, run in order.

    Returns:
        The same result with a new model, and what each step did.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = recover_result(prune(net, torch.zeros(1, 4), ratio=0.5), [torch.randn(64, 4)])
        >>> print(result.recovered[0])
        absorb 2: approximate, 4 inputs went into its bias, the mean of a varying response
    """
    subject = Subject(
        original=result.original,
        cut=result.model,
        example_inputs=result.example_inputs,
        groups=result.groups,
        keep=keep_masks(result.groups, result.plan),
        data=None if data is None else [without_labels(batch, result.example_inputs) for batch in data],
    )
    model, notes = run_recovery(subject, steps)
    return replace(result, model=model, recovered=(*result.recovered, *notes))


def save(result: Result, folder: Path | str) -> Path:
    """Write a pruned model: `weights.safetensors` and `plan.json`; no pickle.

    Args:
        result: What `prune` returned; its model may have been trained since.
        folder: Where to write; made if missing.

    Returns:
        The folder.
    """
    return save_model(result.model, result.plan, folder)


def _require_effect(groups: Groups, selection: Selection, budget: Budget) -> None:
    """A request that prunes nothing is an error, unless nothing was asked."""
    if any(len(indices) < groups[name].size for name, indices in selection.keep.items()):
        return
    if budget.kind != "channels" and budget.value in (0, 1.0):
        warnings.warn(f"{budget} asks for nothing to be pruned", NoEffectWarning, stacklevel=3)
        return
    raise RequestError(
        f"{budget} prunes nothing",
        [f"{name}: {reason}" for name, reason in selection.reasons.items()]
        + [
            f"{name}: keeps {len(indices)} of {groups[name].size}" for name, indices in selection.keep.items()
        ],
        "ask for more, or lower min_keep or round_to",
    )


def _counts(keep: Mapping[Axis, Mask]) -> dict[Axis, int]:
    return {held: int(mask.sum()) for held, mask in keep.items()}


class _Cutter:
    """Cuts a model by plans, and lets its integers follow where its own Python does not."""

    def __init__(self, model: nn.Module, example_inputs: Any, graph: Graph) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.graph = graph
        self.has_followed = False

    @cached_property
    def trace(self) -> Trace | None:
        """Where the integers of the model come from; looked for when it is first needed."""
        return trace(self.model, self.example_inputs, self.graph)

    def cut(self, groups: Groups, plan: Plan) -> tuple[Plan, nn.Module, Graph, Deviation | None]:
        """Cut, record again and compare; returns the plan as followed, and the first deviation if any."""
        counts = _counts(keep_masks(groups, plan))
        if not self.has_followed:
            cut, cut_graph, deviation = self._try(groups, plan, counts)
            if deviation is None or self.trace is None:
                return plan, cut, cut_graph, deviation
            self.has_followed = True
        if self.trace is None:
            return plan, *self._try(groups, plan, counts)
        changed = {held: left for held, left in counts.items() if left < held.size}
        return self._follow(groups, plan, counts, follow_integers(groups, changed, self.trace), self.trace)

    def _follow(
        self, groups: Groups, plan: Plan, counts: Mapping[Axis, int], followed: Followed, trace: Trace
    ) -> tuple[Plan, nn.Module, Graph, Deviation | None]:
        """Let fields and calls follow; then hold the scalars that still come out otherwise."""
        known: set[object] = set()
        while True:
            better = plan.following(followed)
            cut, cut_graph, deviation = self._try(groups, better, counts)
            scalars = scalars_that_differ(groups, cut_graph) if deviation else {}
            if not scalars.keys() - known:
                return better, cut, cut_graph, deviation
            known |= scalars.keys()
            followed = followed.holding(scalars, trace)

    def _try(
        self, groups: Groups, plan: Plan, counts: Mapping[Axis, int]
    ) -> tuple[nn.Module, Graph, Deviation | None]:
        cut = plan.apply(self.model)
        cut_graph, failure = record(cut, self.example_inputs, self.graph.substrate)
        return cut, cut_graph, compare_records(groups, counts, cut_graph, failure)


def _veto(groups: Groups, deviation: Deviation, vetoes: dict[str, str]) -> None:
    """Protect the axes behind a deviation, so that they are left whole in the next round."""
    names = [groups.name_of[held] for held in deviation.suspects if held in groups.name_of]
    fresh = [name for name in names if name not in vetoes]
    if not fresh:
        raise CutError(
            "the cut model cannot follow its plan",
            [str(deviation)],
            "protect the module that the line names",
        )
    vetoes.update(dict.fromkeys(fresh, f"the model's code does not follow a cut ({deviation})"))
