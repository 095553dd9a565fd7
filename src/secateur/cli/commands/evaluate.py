"""`secateur evaluate`: how good a saved model is, and what it costs."""

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.options import MachineOptions, ModelOptions
from secateur.cli.terminal import Answer
from secateur.costs import latency
from secateur.pipeline import measure
from secateur.train import Figures, judge


def evaluate(model: ModelOptions, data: DataOptions, place: MachineOptions) -> Answer:
    """Report the figures of the test part, in all and by class, and what the model costs.

    Example: secateur evaluate runs/tuned --data digits
    """
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed)
    found = judge(opened.model, parts.test, parts.task, device=place.device, threads=place.threads)
    cost = measure(opened.model, parts.example)
    timing = latency(opened.model, parts.example)
    by_class = _by_class(found, parts.class_names)
    numbers = {
        **found.values,
        parts.task.noun: found.count,
        **{f"per_class_{name.lower().replace(' ', '_')}": shares for name, shares in by_class.items()},
        "params": cost.params,
        "macs": cost.macs,
        "size_bytes": cost.size_bytes,
        "latency_ms": timing.median_ms,
    }
    lines = [parts.task.tell(found, "test"), str(cost), str(timing)]
    lines += [
        f"  {name}: {'none' if share is None else f'{share * 100:.2f} %'}"
        for shares in by_class.values()
        for name, share in shares.items()
    ]
    return Answer(numbers, "\n".join(lines))


def _by_class(found: Figures, names: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """What a task tells of each class, by the figure."""
    told = {
        key.removesuffix(" per class"): held for key, held in found.details.items() if " per class" in key
    }
    return {figure: dict(zip(names, shares, strict=True)) for figure, shares in told.items()}
