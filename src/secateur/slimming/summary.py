"""Turn the stages of a run into a report and into the numbers that `--json` prints."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from secateur.plans.plan import Plan
from secateur.reports.content import AccuracySplit, ModelRow, Report
from secateur.reports.rows import channels_left, curve, gamma_history, group_rows, layer_rows, verdict_row
from secateur.slimming.run import Slimmed, Stage
from secateur.train import Parts


def slim_report(
    run: Slimmed, data: Parts, *, title: str, command: str, written: Mapping[str, Path]
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
        model=f"{run.plan.first.source or run.plan.model} on {data.name}",
        requested_ratio=requested,
        achieved_ratio=achieved,
        stages=tuple(stage_row(stage) for stage in run.stages),
        layers=layer_rows(run.groups, kept),
        groups=group_rows(run.groups, kept, run.result.plan.reasons),
        curves=tuple(curve(name, fitted.history) for name, fitted in fits),
        gamma=gamma_history([fit.history for name, fit in fits if name == "sparse"]),
        verdict=verdict_row(run.result.verdict),
        split=accuracy_split(data),
        notes=run.notes,
        written=tuple((label, str(path)) for label, path in written.items()),
    )


def stage_row(stage: Stage) -> ModelRow:
    """One row of the table."""
    return ModelRow(
        name=stage.name,
        accuracy=stage.test.deciding,
        params=stage.cost.params,
        macs=stage.cost.macs,
        size_bytes=stage.size_bytes,
        latency_ms=stage.latency_ms,
        note={"pruned": "before fine-tuning", "recovered": "no training"}.get(stage.name, ""),
        validation_accuracy=stage.validation.deciding,
    )


def stage_numbers(stage: Stage) -> dict[str, float | int]:
    """One stage as `--json` prints it."""
    return {
        **stage.test.values,
        f"validation_{stage.validation.name}": stage.validation.deciding,
        "params": stage.cost.params,
        "macs": stage.cost.macs,
        "size_bytes": stage.size_bytes,
        "latency_ms": stage.latency_ms,
    }


def accuracy_split(data: Parts) -> AccuracySplit:
    """How many images chose the checkpoint and how many only report."""
    return AccuracySplit(
        data_set=data.name,
        train_images=len(data.train),
        validation_images=len(data.validation),
        test_images=len(data.test),
    )


def kept_channels(run: Slimmed) -> dict[str, int]:
    """How many channels of each group are left after all passes of the run."""
    return channels_left({group.name: group.size for group in run.groups}, _passes(run))


def shares_removed(run: Slimmed) -> tuple[float, float]:
    """The share of channels that was asked to be removed by all passes together, and the one that was."""
    kept = kept_channels(run)
    left = 1.0
    for plan in _passes(run):
        assert plan.requested.value is not None, "a pass of slimming asks for one ratio"
        left *= 1 - plan.requested.value
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
