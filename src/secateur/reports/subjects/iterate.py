"""A run that pruned in steps: accuracy against what is left, step by step."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from secateur.iterative import ROWS, Iterated
from secateur.iterative.rows import StageRow
from secateur.reports.charts import Line, Lines, Scale
from secateur.reports.content import ModelRow, Report
from secateur.reports.figures import prefix_of
from secateur.reports.rows import model_row
from secateur.reports.section import Section, Values
from secateur.reports.subject import Folder, registered
from secateur.reports.subjects.plan import plan_report
from secateur.write.rows import folded, read_rows

_ROWS = TypeAdapter(tuple[StageRow, ...])


@registered("iterate")
def of_iterate(thing: Any) -> Report | None:
    """Every stage of every step, and the model after each step."""
    if isinstance(thing, Iterated):
        told = plan_report(thing.plan)
        rows, original = thing.rows, (model_row("original", thing.before),)
        title = f"{thing.plan.model}, pruned in {rows[-1].step} steps"
        more = (*told.more, _section(rows))
        stages = original + _models(rows)
        return replace(told, title=title, stages=stages, more=more, **_metric(rows))
    if not isinstance(thing, Folder) or not (thing.path / ROWS).is_file():
        return None
    _, found = read_rows(thing.path / ROWS, "run")
    rows = _ROWS.validate_python([folded(row, StageRow) for row in found])
    if not rows:
        return None
    return Report("", "", "", "", stages=_models(rows), more=(_section(rows),), **_metric(rows))


def _models(rows: Sequence[StageRow]) -> tuple[ModelRow, ...]:
    """The model that each step ended with."""
    last = {row.step: row for row in rows}
    return tuple(
        ModelRow(f"step {row.step}", None, row.params, row.macs, None, None, validation_accuracy=row.value)
        for row in last.values()
    )


def _section(rows: Sequence[StageRow]) -> Section:
    columns = (
        Values("Step", tuple(row.step for row in rows), "count"),
        Values("Stage", tuple(row.stage for row in rows)),
        Values("Asked to go", tuple(row.asked for row in rows), "share"),
        Values("Gone", tuple(row.removed for row in rows), "share"),
        Values("Parameters", tuple(row.params for row in rows), "amount"),
        Values("MACs", tuple(row.macs for row in rows), "amount"),
        *(
            Values(
                "Loss" if name == "loss" else f"Validation {name}",
                tuple(row.figures[name] for row in rows),
                _scale(rows, name).measure if name != "loss" else "real",
            )
            for name in rows[0].figures
        ),
        Values("Time", tuple(row.seconds for row in rows), "time", "s"),
        Values("Kept epoch", tuple(row.kept_epoch for row in rows), "count"),
    )
    return Section("steps", "Steps", columns=columns, charts=(_chart(rows),), place=15)


def _metric(rows: Sequence[StageRow]) -> dict[str, Any]:
    """What decides, and in which direction."""
    return {"metric": _figure(rows), "lower_is_better": rows[0].lower_is_better}


def _figure(rows: Sequence[StageRow]) -> str:
    """What decides."""
    return next(iter(rows[0].figures))


def _scale(rows: Sequence[StageRow], name: str) -> Scale:
    return Scale.of(name, [row.figures[name] for row in rows])


def _chart(rows: Sequence[StageRow]) -> Lines:
    scale = _scale(rows, _figure(rows))
    prefix, factor = prefix_of([row.macs for row in rows])
    lines = []
    for stage in dict.fromkeys(row.stage for row in rows):
        held = [row for row in rows if row.stage == stage]
        values = scale.on_axis([row.value for row in held])
        lines.append(Line(stage, tuple(row.macs / factor for row in held), values))
    unit = " %" if scale.is_share else ""
    ends = ", ".join(f"{line.name} ends at {line.ys[-1]:.2f}{unit}" for line in lines)
    return Lines(
        "steps",
        label=f"Validation {scale.name} against MACs by step: {ends}.",
        caption=f"Validation {scale.name} against MACs, from the first step on the right to the last.",
        xlabel=f"MACs ({prefix})" if prefix else "MACs",
        ylabel=scale.label,
        lines=tuple(lines),
    )
