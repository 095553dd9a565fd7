"""The pipeline, from a model to a proven smaller one.

model, example -> capture -> couple -> score -> select -> plan -> cut -> check -> result
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from secateur.capture import capture
from secateur.capture.record import record
from secateur.check import Deviation, Verdict, compare_numbers, compare_records
from secateur.check.numbers import randomised
from secateur.couple import Groups, couple_graph
from secateur.errors import CaptureError, CheckError, CutError, NoEffectWarning, RequestError
from secateur.graph.axes import Axis, Mask
from secateur.measure import Cost, cost_of
from secateur.plan import Plan, make_plan
from secateur.score import score
from secateur.score.criterion import Scorer
from secateur.select import Budget, Selection, select


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
    """

    model: nn.Module = field(repr=False)
    plan: Plan = field(repr=False)
    verdict: Verdict | None
    before: Cost
    after: Cost
    groups: Groups = field(repr=False)

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
        left_alone = len(self.plan.reasons)
        console.print(f"{len(self.plan.groups)} groups could be cut, {left_alone} were left alone")
        console.print(f"check: {self.verdict or 'not asked for'}")
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
    return couple_graph(capture(model, example_inputs), protect)


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
        check: Prove that the cut model computes what the masked one does.
        seed: For criteria and checks that draw.

    Returns:
        The new model with its plan, proof and cost; the kept weights are bit-equal to the original's.

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
    graph = capture(model, example_inputs)
    vetoes: dict[str, str] = {}
    while True:
        groups = couple_graph(graph, protect, vetoes)
        scores = score(model, groups, criterion, seed)
        selection = select(groups, scores, budget, scope=scope, min_keep=min_keep, round_to=round_to)
        _require_effect(groups, selection, budget)
        plan = make_plan(model, groups, selection.keep, requested=str(budget), reasons=selection.reasons)
        cut = plan.apply(model)
        cut_graph, failure = record(cut, example_inputs, graph.substrate)
        keep = _masks(groups, selection)
        deviation = compare_records(groups, _counts(keep), cut_graph, failure)
        if deviation is None:
            break
        _veto(groups, deviation, vetoes)
    verdict = verify(model, cut, example_inputs, groups, plan, seed) if check else None
    if verdict is not None and not verdict.passed:
        raise CheckError(
            f"the cut model is wrong: {verdict.failure}", do="report this model; nothing was changed"
        )
    after = cost_of(cut, couple_graph(cut_graph))
    return Result(cut, plan, verdict, cost_of(model, groups), after, groups)


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


def _masks(groups: Groups, selection: Selection) -> dict[Axis, Mask]:
    return {
        groups[name].axis: np.isin(np.arange(groups[name].size), indices)
        for name, indices in selection.keep.items()
    }


def _counts(keep: Mapping[Axis, Mask]) -> dict[Axis, int]:
    return {held: int(mask.sum()) for held, mask in keep.items()}


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


def verify(
    model: nn.Module, cut: nn.Module, example_inputs: Any, groups: Groups, plan: Plan, seed: int = 0
) -> Verdict:
    """Prove by numbers that a cut model computes what the masked original does.

    Args:
        model: The original.
        cut: The cut model, with the original's values at the kept positions.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        plan: What was kept.
        seed: For the random inputs and parameters.
    """
    keep = {groups[group.name].axis: np.isin(np.arange(group.size), group.keep) for group in plan.groups}
    changed = {held for held, mask in keep.items() if not mask.all()}
    renormalised = sorted(
        {group.renormalised for group in groups if group.axis in changed and group.renormalised}
    )
    worst, tolerance, failure = 0.0, 0.0, None
    random_model = randomised(model, seed)
    try:
        for one, two in ((model, cut), (random_model, plan.apply(random_model))):
            error, tolerance = compare_numbers(one, two, example_inputs, groups, keep, seed)
            worst = error if not error <= worst else worst
    except CaptureError as error:
        worst, failure = float("inf"), str(error)
    if failure is None and not worst <= tolerance:
        failure = f"masked and cut outputs differ by {worst:.2g}, allowed is {tolerance:.0e}"
    return Verdict(worst, tolerance, tuple(renormalised), len(groups.graph.nodes), failure)
