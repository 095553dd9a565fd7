"""A detector's run: a cut by a strategy, a sweep of percents, the demonstration."""

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from secateur.domains.darknet.demo import DemoRun
from secateur.domains.darknet.fit import TrainedDetector
from secateur.domains.darknet.prune import DarknetPruned
from secateur.domains.darknet.sweep import PercentRow, Sweep
from secateur.reports.content import ModelRow, Report
from secateur.reports.history import training_report
from secateur.reports.rows import model_row, verdict_row
from secateur.reports.section import Section, Values
from secateur.reports.subject import Folder, registered
from secateur.write.rows import read_rows

METRIC = "mAP50"
_ROWS = TypeAdapter(tuple[PercentRow, ...])


@registered("detector")
def of_detector(thing: Any) -> Report | None:
    """What is known of it."""
    if isinstance(thing, TrainedDetector):
        return training_report(thing.history, thing.kept_epoch, thing.start)
    if isinstance(thing, DarknetPruned):
        return _of_cut(thing)
    if isinstance(thing, DemoRun):
        return _of_demo(thing)
    if isinstance(thing, Sweep):
        return _of_sweep(thing)
    if not isinstance(thing, Folder):
        return None
    file = thing.path / "sweep.jsonl"
    opening, found = read_rows(file) if file.is_file() else ({}, [])
    if not found or "strategy" not in opening:
        return None
    rows = _ROWS.validate_python(sorted(found, key=lambda row: row["percent"]))
    return _of_sweep(Sweep(opening["network"], opening["strategy"], rows, options=opening["options"]))


def _of_sweep(sweep: Sweep) -> Report:
    models = tuple(
        ModelRow(
            "dense" if row.percent == 0 else f"{sweep.strategy} {100 * row.percent:.4g} %",
            None,
            row.params,
            row.macs,
            None,
            None,
            validation_accuracy=row.score,
        )
        for row in sweep.rows
    )
    title = f"{sweep.name}: sweep by {sweep.strategy}"
    return Report(title, "", "", sweep.name, metric=METRIC, models=models, more=(sweep.section(),))


def _of_cut(cut: DarknetPruned) -> Report:
    changed = [row for row in cut.rows if row.after != row.before or row.note]
    columns = (
        Values("Layer", tuple(row.layer for row in changed), "count"),
        Values("Filters before", tuple(row.before for row in changed), "count"),
        Values("Filters after", tuple(row.after for row in changed), "count"),
        Values("Note", tuple(row.note for row in changed)),
    )
    lead = f"By {cut.strategy}, {cut.requested}; {len(changed)} of {len(cut.rows)} convolutions changed."
    notes = [f"layers {', '.join(map(str, cut.removed))} were removed whole"] if cut.removed else []
    if cut.ceiling is not None:
        notes.append(f"threshold {cut.threshold:.4g}; {cut.ceiling}")
    return Report(
        title=f"{cut.config.name}, pruned by {cut.strategy}",
        created="",
        command="",
        model=cut.config.name,
        metric=METRIC,
        stages=(model_row("original", cut.before), model_row("pruned", cut.after)),
        verdict=verdict_row(cut.verdict),
        notes=(*notes, *map(str, cut.errors)),
        more=(Section("filters", "Filters per layer", (lead,), columns, place=60),),
    )


def _of_demo(run: DemoRun) -> Report:
    stages = tuple(
        ModelRow(
            stage.name,
            None,
            stage.params,
            stage.macs,
            stage.size_bytes,
            stage.latency_ms,
            validation_accuracy=stage.map50,
        )
        for stage in run.stages
    )
    written = tuple((name, str(path)) for name, path in run.written.items())
    return replace(_of_cut(run.pruned), title="YOLO on digit scenes", stages=stages, written=written)
