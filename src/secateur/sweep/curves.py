"""Sensitivity curves: what is lost against the share of channels that is zeroed, by layer or by group.

A layer is looked at by itself; a group is all layers whose channels are coupled, such as those that add to
one residual stream, and is scored and zeroed as it would be cut: together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.coupling import couple_graph
from secateur.errors import CheckpointError, RequestError
from secateur.reports.charts import Line, Lines, Scale, percents
from secateur.reports.section import Section, Values
from secateur.rich import Table
from secateur.score import Criterion, score
from secateur.score.criterion import Scorer, as_criterion, describe
from secateur.score.values import Reading
from secateur.sweep.engine import Engine, Job, LocalEngine
from secateur.sweep.forks import Forks
from secateur.sweep.places import ChannelPlace, GroupPlace, find_group
from secateur.sweep.rank import score_channels
from secateur.sweep.rows import fingerprint
from secateur.tables import printed
from secateur.train.evidence import EvidenceBatches
from secateur.train.task import Part
from secateur.write.rows import Rows, fingerprint_of

BY = ("layers", "groups")
"""What a curve is of."""

DRAWN = 12
"""So many curves are drawn in a report."""

Metric = Callable[[Any], float]
"""From `Counts` (figures; of a classifier accuracy, per_class_accuracy, confusion) to a number."""


@dataclass(frozen=True)
class Point:
    """One share of one layer or group.

    Attributes:
        layer: The layer, or the name of the group.
        ratio: The share of its channels that was asked for.
        count: How many channels that is, rounded.
        value: The metric.
    """

    layer: str
    ratio: float
    count: int
    value: float


@dataclass(frozen=True)
class _FilePoint(Point):
    """A point as a row: its key, the channels that were zeroed, and what the value is called."""

    point: str
    removed: tuple[int, ...]
    figure: str


@dataclass(frozen=True)
class Curves:
    """The metric against the ratio, for each layer or group.

    Attributes:
        criterion: What ordered the channels.
        by_layer: The points of each layer or group by ratio; the first is the model as it is.
        skipped: Layers or groups without a curve, with the reason.
        by: "layers" or "groups".
        figure: What the metric is called.
    """

    criterion: str
    by_layer: dict[str, tuple[Point, ...]]
    skipped: dict[str, str]
    by: str = "layers"
    figure: str = "accuracy"

    def table(self) -> Table:
        """A row for each layer or group, a column for each ratio, as `print` shows them."""
        ratios = list(dict.fromkeys(point.ratio for points in self.by_layer.values() for point in points))
        table = Table(self.by.removesuffix("s"), *(f"{100 * ratio:g} %" for ratio in ratios))
        for layer, points in self.by_layer.items():
            values = {point.ratio: f"{point.value:.4f}" for point in points}
            table.add_row(layer, *(values.get(ratio, "-") for ratio in ratios))
        return table

    def __str__(self) -> str:
        left_out = [f"  {layer}: left out, {why}" for layer, why in self.skipped.items()]
        title = f"sensitivity of {len(self.by_layer)} {self.by} by {self.criterion}, by the share zeroed"
        return "\n".join([title, printed(self.table()), *left_out])

    def plot(self, path: Path | str) -> Path:
        """Draw a line for each, into a `.png` or `.svg` file."""
        from secateur.reports.plots import save_chart

        return save_chart(self.chart(), path, f"sensitivity of {self.by}: least {self.criterion} first")

    @property
    def scale(self) -> Scale:
        """How the metric is shown."""
        return Scale.of(self.figure, (point.value for points in self.by_layer.values() for point in points))

    def chart(self, most: int | None = None) -> Lines:
        """A line for each.

        Args:
            most: Draw so many, those that change most; None for all.
        """
        changes = {
            name: max(abs(point.value - points[0].value) for point in points)
            for name, points in self.by_layer.items()
        }
        drawn = set(sorted(changes, key=lambda name: -changes[name])[:most])
        scale = self.scale
        lines = tuple(
            Line(
                name,
                percents([point.ratio for point in points]),
                scale.on_axis([point.value for point in points]),
            )
            for name, points in self.by_layer.items()
            if name in drawn
        )
        ends = ", ".join(f"{line.name} ends at {line.ys[-1]:.2f}" for line in lines)
        label = f"Line chart of {scale.label} against the share zeroed: {ends}."
        caption = f"{self.scale.title} with the channels of the least {self.criterion} zeroed."
        if len(lines) < len(self.by_layer):
            caption += (
                f" The {len(lines)} {self.by} that change most of {len(self.by_layer)}; the table has all."
            )
        return Lines(self.by, label, caption, "channels zeroed (%)", scale.label, lines, *scale.ends)

    def section(self) -> Section:
        """What a report shows of it."""
        ratios = list(dict.fromkeys(point.ratio for points in self.by_layer.values() for point in points))
        values = [{point.ratio: point.value for point in points} for points in self.by_layer.values()]
        measure = self.scale.measure
        columns = (
            Values(self.by.removesuffix("s").capitalize(), tuple(self.by_layer), "code"),
            *(Values(f"{100 * r:g} % zeroed", tuple(one.get(r) for one in values), measure) for r in ratios),
        )
        title = f"Sensitivity of the {self.by}: {self.figure}"
        left_out = tuple(f"{name} is left out: {why}" for name, why in self.skipped.items())
        charts = (self.chart(DRAWN),)
        return Section(f"{self.by}-sweep", title, (), columns, charts, left_out, place=41)


def sensitivity(
    model: nn.Module,
    test: Part,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    *,
    by: str = "layers",
    layers: Sequence[str] | None = None,
    data: Iterable[Any] | None = None,
    criterion: str | Scorer | Criterion = "activation-mean",
    metric: Metric | None = None,
    where: str = "removed",
    rows: Path | str | None = None,
    on_point: Callable[[Point], None] | None = None,
    seed: int = 0,
    forks: Forks | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> Curves:
    """Zero a share of the channels of each layer or group in turn, and evaluate.

    Args:
        model: The network; not changed.
        test: The samples that it is judged by.
        ratios: Shares of the channels, each from 0 to 1; 0 is always evaluated.
        by: "layers", or "groups": all layers whose channels are coupled together, scored as `secateur.prune`
            scores them and zeroed in everything that reads them.
        layers: Names of layers, or of groups; None takes every convolution and linear layer that something
            reads, or every group that may be cut.
        data: Batches to score the channels by, with labels for criteria of gradients, which only groups know;
            None takes the samples of `test`.
        criterion: What orders the channels; the lowest go first.
        metric: What is measured; None takes the task's deciding figure.
        where: As for `channel_sweep`; of layers only.
        rows: A file of JSON lines that grows with every point, and from which a stopped sweep goes on; the
            metric is not part of what it is compared by.
        on_point: Called with each new point.
        seed: For criteria that draw.
        forks: The model and `test` made ready.
        engine: Who works the points off; None does it here. Every engine computes the same numbers.
        **options: Further arguments of `Forks`.

    Raises:
        RequestError: A ratio is no share, or a layer or group that was named cannot be swept.
        CheckpointError: The file of rows is of another sweep.

    Example:
        >>> from secateur.domains.classification import load
        >>> from secateur.zoo import models
        >>> net = models["resnet20"](width=1 / 8, in_channels=1, image_size=8)
        >>> test = load("digits").validation
        >>> found = sensitivity(net, test, (0.5,), by="groups", layers=["conv1"], criterion="l1")
        >>> [(point.ratio, point.count) for point in found.by_layer["conv1"]]
        [(0.0, 0), (0.5, 1)]
    """
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        raise RequestError(f"ratios are {list(ratios)}", do="pass shares from 0 to 1, such as 0.5")
    if by not in BY:
        raise RequestError(f"by is '{by}'", do=f"choose one of {', '.join(BY)}")
    own = Forks(model, test, **options) if forks is None else forks
    chosen = as_criterion(criterion)
    batches = list(data) if data is not None else None
    wanted = sorted({0.0, *map(float, ratios)})
    told = {
        "sweep": "sensitivity",
        "criterion": describe(chosen),
        **({"where": where} if by == "layers" else {"by": by}),
        "seed": seed,
        "data": None if batches is None else fingerprint_of(batches),
    }
    opening = {**told, **fingerprint(model, test)}
    images = EvidenceBatches(own.task, test.batches(own.batch_size)) if batches is None else batches
    kind = _Layers(own, where, chosen, images, seed) if by == "layers" else _Groups(own, chosen, images, seed)
    try:
        with Rows(None if rows is None else Path(rows), opening, "point", _FilePoint) as known:
            places, skipped = _places(kind, layers)
            jobs, points = _jobs(kind, places, wanted, known)
            for number, at, counted in (engine or LocalEngine()).map(own, jobs):
                name, ratio, removed = points[number][at]
                value = counted.value if metric is None else float(metric(counted))
                point = Point(name, ratio, len(removed), value)
                figure = counted.figures.name if metric is None else "metric"
                known.add(
                    asdict(
                        _FilePoint(
                            **asdict(point), point=_key(name, ratio), removed=tuple(removed), figure=figure
                        )
                    )
                )
                if on_point is not None:
                    on_point(point)
    finally:
        if forks is None:
            own.close()
    curves = {name: tuple(_point(known.known[_key(name, ratio)]) for ratio in wanted) for name in places}
    figures = [row["figure"] for row in known.known.values()]
    return Curves(chosen.name, curves, skipped | kind.unscored, by, *figures[:1])


class _Layers:
    """The layers of a model, each by itself."""

    def __init__(
        self, forks: Forks, where: str, criterion: Criterion, images: Iterable[Any], seed: int
    ) -> None:
        self.forks, self.where, self.criterion, self.images, self.seed = forks, where, criterion, images, seed
        self.unscored: dict[str, str] = {}
        kinds = (nn.modules.conv._ConvNd, nn.Linear)
        self.names = [name for name, module in forks.model.named_modules() if isinstance(module, kinds)]

    def find(self, name: str) -> ChannelPlace:
        """Where the channels are."""
        return self.forks.find(name, self.where)

    def scores(self, place: Any) -> Tensor:
        """One score for each channel."""
        model, graph, example = self.forks.model, self.forks.graph, self.forks.example
        return score_channels(model, graph, place, self.criterion, self.images, example, self.seed)


class _Groups:
    """The groups of a model that may be cut."""

    def __init__(self, forks: Forks, criterion: Criterion, images: Iterable[Any], seed: int) -> None:
        self.groups = couple_graph(forks.graph)
        self.reading = Reading(self.groups)
        samples = Samples(images, forks.model, forks.example)
        scored = score(forks.model, self.groups, criterion, seed, data=samples)
        self.by_group, self.unscored = scored.by_group, dict(scored.skipped)
        self.names = list(scored.by_group)

    def find(self, name: str) -> GroupPlace:
        """Where the channels are."""
        group = self.groups[name]
        if name not in self.by_group:
            why = self.unscored.get(name, group.reason)
            raise RequestError(f"group {name} cannot be swept: {why}", do="name a group that may be cut")
        return find_group(self.reading, group)

    def scores(self, place: Any) -> Tensor:
        """One score for each channel."""
        return self.by_group[place.name]


def _places(kind: _Layers | _Groups, named: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Where each layer or group can be zeroed, and why not."""
    places: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in kind.names if named is None else named:
        try:
            places[name] = kind.find(name)
        except RequestError as error:
            if named is not None:
                raise
            skipped[name] = str(error).partition("\n")[0]
    return places, skipped


def _jobs(
    kind: _Layers | _Groups, places: dict[str, Any], wanted: Sequence[float], known: Rows
) -> tuple[list[Job], list[list[tuple[str, float, list[int]]]]]:
    """What is not known yet: a job for each place, and the name, ratio and channels of each choice."""
    jobs: list[Job] = []
    points: list[list[tuple[str, float, list[int]]]] = []
    for name, place in places.items():
        order = kind.scores(place).argsort(stable=True).tolist()
        choices = {ratio: order[: round(ratio * place.size)] for ratio in wanted}
        _require_same(name, choices, known)
        missing = [(name, ratio, choices[ratio]) for ratio in wanted if _key(name, ratio) not in known.known]
        if missing:
            jobs.append(Job(place, tuple(tuple(removed) for _, _, removed in missing)))
            points.append(missing)
    return jobs, points


def _require_same(name: str, choices: dict[float, list[int]], known: Rows) -> None:
    """A point that is known zeroed what it would zero now."""
    for ratio, removed in choices.items():
        row = known.known.get(_key(name, ratio))
        if row is not None and list(row["removed"]) != removed:
            raise CheckpointError(
                f"{known.path} holds the rows of another sweep",
                [f"{name} at {ratio:g}: other channels were zeroed there"],
                "name another file",
            )


def _key(name: str, ratio: float) -> str:
    return f"{name} {ratio!r}"


def _point(row: dict[str, Any]) -> Point:
    return Point(row["layer"], row["ratio"], row["count"], row["value"])
