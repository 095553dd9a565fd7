"""A comparison: several reports as one, with all models that they hold and where each is the best."""

from collections.abc import Mapping
from dataclasses import replace

from secateur.errors import RequestError
from secateur.reports.content import Report
from secateur.reports.section import Section, Values


def compare(reports: Mapping[str, Report], created: str = "") -> Report:
    """Compare reports.

    Args:
        reports: The reports by the names of their runs.
        created: When it was made, as text.

    Raises:
        RequestError: None of them holds a model with a figure, or they speak of different metrics.

    Example:
        >>> from secateur.reports.content import ModelRow
        >>> half = Report("a", "", "", "net", stages=(ModelRow("pruned", 0.9, 50, 40, None, None),))
        >>> [(model.run, model.name) for model in compare({"half": half, "again": half}).models]
        [('half', 'pruned'), ('again', 'pruned')]
    """
    models = tuple(
        replace(model, run=model.run or name)
        for name, one in reports.items()
        for model in (*one.stages, *one.models)
    )
    if not models:
        raise RequestError(
            f"there is nothing to compare in {', '.join(reports) or 'no run at all'}",
            ["none of them holds a model with what it costs or how good it is"],
            "name runs of training, pruning or sweeps",
        )
    metrics = {one.metric for one in reports.values() if one.stages or one.models}
    if len(metrics) > 1:
        by_run = [f"{name}: {one.metric}" for name, one in reports.items()]
        raise RequestError(
            "the runs cannot be compared: their metrics differ", by_run, "compare like with like"
        )
    splits = {one.split for one in reports.values()}
    runs = tuple(reports.values())
    columns = (
        Values("Run", tuple(reports)),
        Values("Model", tuple(one.model for one in runs), "code"),
        Values("Channels removed", tuple(one.achieved_ratio for one in runs), "share"),
        Values("Verdict", tuple(one.verdict.status if one.verdict else "" for one in runs)),
        Values(
            "Relative error",
            tuple(one.verdict.relative_error if one.verdict else None for one in runs),
            "error",
        ),
    )
    return Report(
        title=f"Comparison of {len(reports)} runs",
        created=created,
        command="",
        model="",
        metric=metrics.pop(),
        lower_is_better=any(one.lower_is_better for one in runs),
        split=splits.pop() if len(splits) == 1 else None,
        models=models,
        curves=tuple(
            replace(curve, label=f"{name}: {curve.label}")
            for name, one in reports.items()
            for curve in one.curves
        ),
        notes=tuple(f"{name}: {note}" for name, one in reports.items() for note in one.notes),
        more=(Section("runs", "Runs", columns=columns, place=14),),
    )
