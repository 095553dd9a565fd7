"""The model over the stages of its path, with what it costs and how good it is."""

from secateur.reports.content import ModelRow, Report
from secateur.reports.section import Section, Values
from secateur.reports.sections import registered


@registered("stages")
def show_stages(report: Report) -> Section | None:
    """A row for each stage, the result last."""
    if not report.stages:
        return None
    columns = (
        Values("Stage", tuple(stage.name for stage in report.stages)),
        *model_columns(report, report.stages),
    )
    return Section("stages", "Stages", columns=columns, place=10, ends_in_result=True)


def model_columns(report: Report, models: tuple[ModelRow, ...]) -> tuple[Values, ...]:
    """What is known of models, a column each."""
    chosen, reported = (
        f"{images.capitalize()} {report.metric}" for images in (report.chosen_on, report.reported_on)
    )
    return (
        Values(chosen, tuple(model.validation_accuracy for model in models), report.scale.measure),
        Values(reported, tuple(model.accuracy for model in models), report.scale.measure),
        Values("Parameters", tuple(model.params for model in models), "amount"),
        Values("MACs", tuple(model.macs for model in models), "amount"),
        Values("File", tuple(model.size_bytes for model in models), "amount", "B"),
        Values("Memory", tuple(model.memory_bytes for model in models), "amount", "B"),
        Values("Latency", tuple(model.latency_ms for model in models), "time", "ms"),
        Values("Note", tuple(model.note for model in models)),
    )
