"""Models of no path: those of a sweep or of several runs, and the front of what each accuracy costs."""

from collections import Counter
from collections.abc import Callable, Sequence

from secateur.reports import figures
from secateur.reports.charts import Line, Lines
from secateur.reports.content import ModelRow, Report
from secateur.reports.section import Section, Values
from secateur.reports.sections import registered
from secateur.reports.sections.stages import model_columns

_COSTS: dict[str, tuple[Callable[[ModelRow], float | None], str]] = {
    "MACs": (lambda model: model.macs, ""),
    "parameters": (lambda model: model.params, ""),
    "milliseconds": (lambda model: model.latency_ms, ""),
    "bytes": (lambda model: model.size_bytes, "B"),
}


@registered("models")
def show_models(report: Report) -> Section | None:
    """All that is known of each, and a picture for each cost."""
    models = report.models
    if not models:
        return None
    name, scores = _scores(report)
    fronts = {
        cost: front(list(zip(map(of, models), scores, strict=True)), report.lower_is_better)
        for cost, (of, _) in _COSTS.items()
        if _differs([of(model) for model, score in zip(models, scores, strict=True) if score is not None])
    }
    on = tuple(", ".join(cost for cost in fronts if i in fronts[cost]) for i in range(len(models)))
    columns = (
        Values("Run", tuple(model.run for model in models)),
        Values("Model", tuple(model.name for model in models)),
        *model_columns(report, models),
        Values("Best for its", on),
    )
    paragraphs: list[str] = []
    better = "lower" if report.lower_is_better else "higher"
    if fronts:
        paragraphs.append(
            f"A model is best for its MACs if no other has a {better} {name} with as few of them or fewer; "
            "likewise for the other costs."
        )
        missing = sum(score is None for score in scores)
        if missing:
            verb = "is" if missing == 1 else "are"
            paragraphs.append(
                f"{missing} of {len(models)} models {verb} without a {name}: not in the pictures."
            )
    charts = tuple(_chart(report, name, scores, cost, fronts[cost]) for cost in fronts)
    return Section("models", "Models", tuple(paragraphs), columns, charts, place=12)


def front(
    points: Sequence[tuple[float | None, float | None]], lower_is_better: bool = False
) -> tuple[int, ...]:
    """Find the points (cost, score) that no other beats: none has a better score at no higher cost.

    Returns:
        Their indices by cost; of equal points the first.

    Example:
        >>> front([(10, 0.5), (20, 0.4), (30, 0.9), (None, 1.0), (10, 0.5)])
        (0, 2)
    """
    known = [
        (cost, score if lower_is_better else -score, i)
        for i, (cost, score) in enumerate(points)
        if cost is not None and score is not None
    ]
    best, chosen = float("inf"), []
    for _, lost, i in sorted(known):
        if lost < best:
            best = lost
            chosen.append(i)
    return tuple(chosen)


def _differs(costs: Sequence[float | None]) -> bool:
    return len({cost for cost in costs if cost is not None}) > 1


def _scores(report: Report) -> tuple[str, list[float | None]]:
    """The metric on the images that most models were measured on; scores on others are not compared."""
    tested = [model.accuracy for model in report.models]
    validated = [model.validation_accuracy for model in report.models]
    is_tested = Counter(map(type, tested))[float] >= Counter(map(type, validated))[float]
    images = report.reported_on if is_tested else report.chosen_on
    return f"{images} {report.metric}", tested if is_tested else validated


def _chart(report: Report, name: str, scores: list[float | None], cost: str, best: tuple[int, ...]) -> Lines:
    (of, unit), scale = _COSTS[cost], report.scale
    points = [(of(model), score) for model, score in zip(report.models, scores, strict=True)]
    prefix, factor = figures.prefix_of([value for value, score in points if value is not None])
    by_run: dict[str, list[tuple[float, float]]] = {}
    for model, (value, score) in zip(report.models, points, strict=True):
        if value is not None and score is not None:
            by_run.setdefault(model.run or "models", []).append((value / factor, score))
    lines = [
        Line(run, tuple(x for x, _ in held), scale.on_axis([y for _, y in held]), "points")
        for run, held in by_run.items()
    ]
    on = [(points[i][0] or 0, points[i][1] or 0) for i in best]
    lines.append(Line("best", tuple(x / factor for x, _ in on), scale.on_axis([y for _, y in on]), "front"))
    ends = ", ".join(f"{scale.word(y)} at {x / factor:.4g}{prefix}" for x, y in on)
    what = f"{name} against {cost}"
    unit = f"{prefix}{unit}"
    xlabel = f"{cost} ({unit})" if unit else cost
    label = f"{what[0].upper()}{what[1:]}; the best: {ends}."
    caption = f"{what[0].upper()}{what[1:]}. Dashed: the best models."
    return Lines(
        f"front-{cost.lower()}",
        label,
        caption,
        xlabel,
        f"{name} (%)" if scale.is_share else name,
        tuple(lines),
    )
