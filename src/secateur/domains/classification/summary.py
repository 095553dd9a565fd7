"""Turn the stages of a run into a report and into the numbers that `--json` prints."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from secateur.coupling import Groups
from secateur.coupling.layers import layer_of
from secateur.domains.classification.images import Splits
from secateur.domains.classification.slimming import Slimmed, Stage
from secateur.graph.axes import Axis
from secateur.graph.keep import count, size_of
from secateur.graph.node import Ref
from secateur.penalise.sparsity import GAMMA_EDGES
from secateur.plans.plan import Plan
from secateur.result import Result
from secateur.train import FitResult
from secateur.write.report import (
    AccuracySplit,
    Curve,
    GammaHistory,
    GroupRow,
    LayerRow,
    Report,
    StageRow,
    VerdictRow,
)


def slim_report(
    run: Slimmed, data: Splits, *, title: str, command: str, written: Mapping[str, Path]
) -> Report:
    """Describe a slimming run.

    Args:
        run: The run.
        data: What it was trained on.
        title: Headline.
        command: The command line that made it.
        written: What was written where, by label.
    """
    fits = [(stage.name, stage.fitted) for stage in run.stages if stage.fitted is not None]
    requested, achieved = shares_removed(run)
    kept = kept_channels(run)
    return Report(
        title=title,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        model=f"{run.plan.first.source or run.plan.model} on {data.spec.name}",
        requested_ratio=requested,
        achieved_ratio=achieved,
        stages=tuple(stage_row(stage) for stage in run.stages),
        layers=layer_rows(run.groups, {run.groups[name].axis: count for name, count in kept.items()}),
        groups=group_rows(run.groups, kept, run.result.plan.reasons),
        curves=tuple(curve(name, fitted) for name, fitted in fits),
        gamma=gamma_history(fit for name, fit in fits if name == "sparse"),
        verdict=verdict_row(run.result),
        split=accuracy_split(data),
        notes=run.notes,
        written=tuple((label, str(path)) for label, path in written.items()),
    )


def stage_row(stage: Stage) -> StageRow:
    """One row of the table."""
    return StageRow(
        name=stage.name,
        accuracy=stage.test.accuracy,
        params=stage.cost.params,
        macs=stage.cost.macs,
        size_bytes=stage.size_bytes,
        latency_ms=stage.latency_ms,
        note={"pruned": "before fine-tuning", "recovered": "no training"}.get(stage.name, ""),
        validation_accuracy=stage.validation_accuracy,
    )


def stage_numbers(stage: Stage) -> dict[str, float | int]:
    """One stage as `--json` prints it."""
    return {
        "accuracy": stage.test.accuracy,
        "validation_accuracy": stage.validation_accuracy,
        "params": stage.cost.params,
        "macs": stage.cost.macs,
        "size_bytes": stage.size_bytes,
        "latency_ms": stage.latency_ms,
    }


def accuracy_split(data: Splits) -> AccuracySplit:
    """How many images chose the checkpoint and how many only report."""
    return AccuracySplit(
        data_set=data.spec.name,
        train_images=len(data.train),
        validation_images=len(data.validation),
        test_images=len(data.test),
    )


def kept_channels(run: Slimmed) -> dict[str, int]:
    """How many channels of each group are left after all passes of the run.

    A plan names the groups of the network that it cuts, and a group that a pass brought down to one channel
    is missing in those of later passes.
    """
    kept: dict[str, int] = {}
    sizes = {group.name: group.size for group in run.groups}
    for plan in _passes(run):
        for group in plan.groups:
            if group.size == kept.get(group.name, sizes.get(group.name)):
                kept[group.name] = len(group.keep)
    return kept


def shares_removed(run: Slimmed) -> tuple[float, float]:
    """The share of channels that was asked to be removed by all passes together, and the one that was."""
    kept = kept_channels(run)
    left = 1.0
    for plan in _passes(run):
        assert plan.requested.kind == "ratio", "a pass of slimming asks for a ratio"
        left *= 1 - (plan.requested.value or 0)
    before = sum(run.groups[name].size for name in kept)
    return 1 - left, 1 - sum(kept.values()) / max(before, 1)


def _passes(run: Slimmed) -> list[Plan]:
    """The plans of the passes, the first one first; not those that made the network that came in."""
    plans: list[Plan] = []
    plan: Plan | None = run.plan
    while plan is not None and len(plans) < run.passes:
        plans.insert(0, plan)
        plan = plan.previous
    return plans


def layer_rows(groups: Groups, kept: Mapping[Axis, int]) -> tuple[LayerRow, ...]:
    """Channels, parameters and MACs of each layer that multiplies, before and after."""
    rows: list[LayerRow] = []
    graph, findings = groups.graph, groups.findings
    for node in graph.nodes:
        weight = node.args.get("weight")
        if node.index not in findings.macs or not isinstance(weight, Ref) or weight.value not in graph.names:
            continue
        tensors = [
            findings.dims[ref.value]
            for ref in (weight, node.args.get("bias"))
            if isinstance(ref, Ref) and ref.value in graph.names
        ]
        layer = layer_of(graph, node)
        channels = findings.dims[node.makes[0]][1 if layer is None else layer.channels_at]
        name = graph.names[weight.value][0].rpartition(".")[0]
        rows.append(
            LayerRow(
                name=name,
                kind=graph.module_types.get(name, ("parameter",))[0],
                channels_before=channels.size,
                channels_after=count(channels, kept),
                params_before=sum(size_of(dims, {}) for dims in tensors),
                params_after=sum(size_of(dims, kept) for dims in tensors),
                macs_before=sum(size_of(dims, {}) for dims in findings.macs[node.index]),
                macs_after=sum(size_of(dims, kept) for dims in findings.macs[node.index]),
            )
        )
    return tuple(rows)


def group_rows(groups: Groups, kept: Mapping[str, int], reasons: Mapping[str, str]) -> tuple[GroupRow, ...]:
    """What became of each group, and why some were left alone."""
    rows: list[GroupRow] = []
    for group in groups:
        if group.name in kept:
            left = kept[group.name]
            rows.append(GroupRow(group.name, group.size, left, "pruned" if left < group.size else "kept"))
        else:
            reason = reasons.get(group.name, group.reason or "")
            rows.append(GroupRow(group.name, group.size, group.size, "protected", reason))
    return tuple(rows)


def curve(name: str, fitted: FitResult) -> Curve:
    """The course of one training."""
    history = fitted.history
    return Curve(
        label=name,
        epochs=tuple(record.epoch for record in history),
        train_loss=tuple(record.train_loss for record in history),
        train_accuracy=tuple(record.train_accuracy for record in history),
        val_accuracy=tuple(record.val_accuracy for record in history),
        near_zero_share=tuple(record.near_zero_share for record in history) if name == "sparse" else None,
    )


def gamma_history(fits: Iterable[FitResult | None]) -> GammaHistory | None:
    """The histogram of batch-norm scales over the epochs of a sparse training."""
    for fitted in fits:
        if fitted is not None:
            return GammaHistory(GAMMA_EDGES, tuple(record.gammas for record in fitted.history))
    return None


def verdict_row(result: Result) -> VerdictRow | None:
    """The proof."""
    verdict = result.verdict
    if verdict is None:
        return None
    return VerdictRow(verdict.status, verdict.relative_error, verdict.nodes, str(verdict))
