"""Sensitivity curves: accuracy against the share of a layer's channels that is zeroed, layer by layer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import RequestError
from secateur.score import Criterion
from secateur.score.criterion import Scorer, as_criterion
from secateur.sweep.draw import draw_curves
from secateur.sweep.forks import Forks
from secateur.sweep.rank import score_channels
from secateur.sweep.rows import Rows, fingerprint, fingerprint_of
from secateur.train.classifier import Part
from secateur.write.figures import percent

Metric = Callable[[Any], float]
"""From `Counts` (accuracy, per_class_accuracy, confusion) to a number."""


@dataclass(frozen=True)
class Point:
    """One share of one layer.

    Attributes:
        layer: The layer.
        ratio: The share of its channels that was asked for.
        count: How many channels that is, rounded.
        value: The metric.
    """

    layer: str
    ratio: float
    count: int
    value: float


@dataclass(frozen=True)
class Curves:
    """The metric against the ratio, for each layer.

    Attributes:
        criterion: What ordered the channels.
        by_layer: The points of each layer by ratio; the first is the model as it is.
        skipped: Layers without a curve, with the reason.
    """

    criterion: str
    by_layer: dict[str, tuple[Point, ...]]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"  {layer}: " + ", ".join(f"{percent(point.ratio)}: {point.value:.4f}" for point in points)
            for layer, points in self.by_layer.items()
        ]
        lines += [f"  {layer}: left out, {why}" for layer, why in self.skipped.items()]
        return "\n".join([f"sensitivity of {len(self.by_layer)} layers by {self.criterion}", *lines])

    def plot(self, path: Path | str) -> Path:
        """Draw a line for each layer, into a `.png` or `.svg` file."""
        lines = {
            layer: [(100 * point.ratio, point.value) for point in points]
            for layer, points in self.by_layer.items()
        }
        title = f"sensitivity: least {self.criterion} first"
        return draw_curves(path, lines, title, "channels zeroed in %")


def sensitivity(
    model: nn.Module,
    test: Part,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    *,
    layers: Sequence[str] | None = None,
    data: Iterable[Any] | None = None,
    criterion: str | Scorer | Criterion = "activation-mean",
    metric: Metric = lambda counts: float(counts.accuracy),
    where: str = "removed",
    rows: Path | str | None = None,
    on_point: Callable[[Point], None] | None = None,
    seed: int = 0,
    forks: Forks | None = None,
    **options: Any,
) -> Curves:
    """Zero a share of the channels of each layer in turn, and evaluate.

    Args:
        model: The classifier; not changed.
        test: The images that are classified.
        ratios: Shares of a layer's channels, each from 0 to 1; 0 is always evaluated.
        layers: Which; None takes every convolution and linear layer that something reads.
        data: Batches to score the channels by; None takes the images of `test`.
        criterion: What orders the channels; the lowest go first.
        metric: What is measured.
        where: As for `channel_sweep`.
        rows: A file of JSON lines that grows with every point, and from which a stopped sweep goes on; the
            metric is not part of what it is compared by.
        on_point: Called with each new point.
        seed: For criteria that draw.
        forks: The model and `test` made ready.
        **options: Further arguments of `Forks`.

    Raises:
        RequestError: A ratio is no share, or a layer that was named cannot be swept.
        CheckpointError: The file of rows is of another sweep.
    """
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        raise RequestError(f"ratios are {list(ratios)}", do="pass shares from 0 to 1, such as 0.5")
    own = Forks(model, test, **options) if forks is None else forks
    chosen = as_criterion(criterion)
    batches = list(data) if data is not None else None
    wanted = sorted({0.0, *map(float, ratios)})
    told = {
        "sweep": "sensitivity",
        "criterion": chosen.name,
        "where": where,
        "seed": seed,
        "data": None if batches is None else fingerprint_of(batches),
    }
    known = Rows(None if rows is None else Path(rows), {**told, **fingerprint(model, test)}, "point")
    curves: dict[str, tuple[Point, ...]] = {}
    skipped: dict[str, str] = {}
    try:
        for layer in _layers(own.model) if layers is None else layers:
            try:
                place = own.find(layer, where)
            except RequestError as error:
                if layers is not None:
                    raise
                skipped[layer] = str(error).partition("\n")[0]
                continue
            missing = [ratio for ratio in wanted if f"{layer} {ratio:g}" not in known.known]
            if missing:
                images = test.batches(own.batch_size) if batches is None else batches
                scores = score_channels(own.model, own.graph, place, chosen, images, own.example, seed)
                order = scores.argsort(stable=True).tolist()
                takes = [round(ratio * place.size) for ratio in missing]
                found = own.counts(place, [order[:count] for count in takes])
                for ratio, count, counted in zip(missing, takes, found, strict=True):
                    point = Point(layer, ratio, count, float(metric(counted)))
                    known.add({"point": f"{layer} {ratio:g}", **asdict(point)})
                    if on_point is not None:
                        on_point(point)
            curves[layer] = tuple(_point(known.known[f"{layer} {ratio:g}"]) for ratio in wanted)
    finally:
        if forks is None:
            own.close()
    return Curves(chosen.name, curves, skipped)


def _point(row: dict[str, Any]) -> Point:
    return Point(row["layer"], row["ratio"], row["count"], row["value"])


def _layers(model: nn.Module) -> list[str]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]
