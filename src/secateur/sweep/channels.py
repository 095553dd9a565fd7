"""The channel sweep: zero the least channels of one layer, a few more each time, and see what is lost.

score_c = mean over samples and places of the activation of channel c
value(K) = the task's deciding figure, such as accuracy, with the K channels of the smallest scores zeroed
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.errors import CheckpointError, RequestError
from secateur.reports.charts import Line, Lines, Scale
from secateur.reports.figures import percent
from secateur.reports.section import Section, Values
from secateur.rich import Table
from secateur.score import Criterion
from secateur.score.criterion import Scorer, as_criterion
from secateur.sweep.engine import Engine, Job, LocalEngine
from secateur.sweep.forks import Forks
from secateur.sweep.rank import score_channels
from secateur.sweep.rows import fingerprint, shown
from secateur.tables import printed
from secateur.train.evidence import EvidenceBatches
from secateur.train.task import Part
from secateur.write.rows import Rows


@dataclass(frozen=True)
class SweepRow:
    """One number of channels.

    Attributes:
        count: How many channels are zeroed.
        figures: How good the model is then, the deciding figure first.
        per_class_accuracy: Of a classifier, the share of the images of each class that are classified right;
            None for a class without images. Empty for other tasks.
        removed: The channels, in the order of their scores.
    """

    count: int
    figures: dict[str, float]
    per_class_accuracy: tuple[float | None, ...]
    removed: tuple[int, ...]

    @property
    def value(self) -> float:
        """The deciding figure."""
        return next(iter(self.figures.values()))

    @property
    def accuracy(self) -> float:
        """Of a classifier, the share of the images that are classified right."""
        return self.figures["accuracy"]

    @property
    def worst(self) -> float | None:
        """Of a classifier, the share of the class with the smallest one."""
        return min((share for share in self.per_class_accuracy if share is not None), default=None)


@dataclass(frozen=True, eq=False)
class ChannelSweep:
    """The deciding figure against the number of channels that are zeroed.

    Attributes:
        layer: The layer.
        where: "removed" (after its norm) or "output" (what the layer itself returns).
        criterion: What ordered the channels.
        scores: One score for each channel, float64.
        rows: By count; the first is the model as it is.
        lower_is_better: Of the deciding figure.
    """

    layer: str
    where: str
    criterion: str
    scores: Tensor
    rows: tuple[SweepRow, ...]
    lower_is_better: bool = False

    @property
    def dense(self) -> SweepRow:
        """The model as it is."""
        return self.rows[0]

    @property
    def figure(self) -> str:
        """What decides."""
        return next(iter(self.dense.figures))

    def plot(self, path: Path | str) -> Path:
        """Draw the deciding figure against the number of channels.

        Args:
            path: A `.png` or `.svg` file; it is complete or not there.

        Raises:
            RequestError: Another kind of file.
            SecateurError: It cannot be written.
        """
        from secateur.reports.plots import save_chart

        title = f"{self.layer}: {self.figure} against channels zeroed, least {self.criterion} first"
        return save_chart(self.chart(), path, title)

    @property
    def scale(self) -> Scale:
        """How the deciding figure is shown."""
        return Scale.of(self.figure, (row.value for row in self.rows))

    def chart(self) -> Lines:
        """The deciding figure against the number of channels."""
        scale = self.scale
        values = scale.on_axis([row.value for row in self.rows])
        line = Line(self.layer, tuple(row.count for row in self.rows), values)
        ends = f"from {scale.word(self.dense.value)} to {scale.word(self.rows[-1].value)}"
        label = f"Line chart of {self.figure} against zeroed channels of {self.layer}: {ends}."
        caption = f"{self.scale.title} with the channels of the least {self.criterion} zeroed."
        ylabel, ends_at = scale.label, scale.ends
        return Lines("channels", label, caption, "channels zeroed", ylabel, (line,), *ends_at, is_whole=True)

    def section(self) -> Section:
        """What a report shows of it."""
        worst = [row.worst for row in self.rows]
        columns = (
            Values("Channels zeroed", tuple(row.count for row in self.rows), "count"),
            Values(self.scale.title, tuple(row.value for row in self.rows), self.scale.measure),
            *([] if None in worst else [Values("Worst class", tuple(worst), "share")]),
        )
        title = f"Sweep of the channels of {self.layer}"
        return Section("channel-sweep", title, columns=columns, charts=(self.chart(),), place=40)

    def table(self) -> Table:
        """The rows as `print` shows them."""
        by_class = any(row.worst is not None for row in self.rows)
        table = Table("channels", "zeroed", self.figure, "change", *(["worst class"] if by_class else []))
        for row in self.rows:
            table.add_row(
                f"{row.count}",
                percent(row.count / len(self.scores)),
                *shown(row.value, self.dense.value, self.lower_is_better),
                *([percent(row.worst)] if by_class else []),
            )
        return table

    def __str__(self) -> str:
        title = f"sweep of {self.layer}: {len(self.scores)} channels by {self.criterion}"
        return f"{title}\n{printed(self.table())}"


def channel_sweep(
    model: nn.Module,
    layer: str,
    test: Part,
    counts: Sequence[int] = (1, 3, 5),
    *,
    data: Iterable[Any] | None = None,
    criterion: str | Scorer | Criterion = "activation-mean",
    where: str = "removed",
    rows: Path | str | None = None,
    on_row: Callable[[SweepRow], None] | None = None,
    seed: int = 0,
    forks: Forks | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> ChannelSweep:
    """Zero the lowest channels of one layer, in several numbers, and evaluate each.

    The figures are those of a loop that hooks the model and evaluates it each time.

    Args:
        model: The network; not changed.
        layer: Qualified name of the layer: a convolution or a linear layer.
        test: The samples that it is judged by.
        counts: How many channels to zero, each from 0 to all of them; 0 is always evaluated.
        data: Batches to score the channels by; None takes the samples of `test`.
        criterion: What orders the channels; the lowest go first, of equal ones the first.
        where: "removed" zeroes after the norm that follows the layer, as a cut does; "output" zeroes what the
            layer itself returns, after which a norm still adds its bias.
        rows: A file of JSON lines that grows with every row, and from which a stopped sweep goes on.
        on_row: Called with each new row.
        seed: For criteria that draw.
        forks: The model and `test` made ready, if several sweeps share them.
        engine: Who works the counts off; None does it here. Every engine computes the same numbers.
        **options: Further arguments of `Forks`, such as task, batch_size, device or memory_bytes.

    Returns:
        The rows by count; it prints well.

    Raises:
        RequestError: No such layer or criterion, or a count that does not fit it.
        CheckpointError: The file of rows is of another sweep.
        PathError: The control flow of the model depends on numbers.

    Example:
        >>> from secateur.domains.classification import load
        >>> from secateur.zoo import models
        >>> net = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
        >>> found = channel_sweep(net, "feature.0", load("digits").validation, counts=(1, 4))
        >>> [row.count for row in found.rows], len(found.rows[-1].removed)
        ([0, 1, 4], 4)
    """
    own = Forks(model, test, **options) if forks is None else forks
    try:
        place = own.find(layer, where)
        wanted = sorted({0, *counts})
        if not counts or wanted[0] < 0 or wanted[-1] > place.size:
            raise RequestError(
                f"counts are {str(list(counts))[1:-1] or 'none'}, layer {layer} has {place.size} channels",
                do=f"pass numbers from 1 to {place.size}",
            )
        chosen = as_criterion(criterion)
        batches = EvidenceBatches(own.task, test.batches(own.batch_size)) if data is None else data
        scores = score_channels(own.model, own.graph, place, chosen, batches, own.example, seed)
        order = scores.argsort(stable=True).tolist()
        opening = {
            "sweep": "channels",
            "layer": layer,
            "where": where,
            "criterion": chosen.name,
            "order": hashlib.sha256(str(order).encode()).hexdigest()[:16],
            **fingerprint(model, test),
        }
        with Rows(None if rows is None else Path(rows), opening, "count", SweepRow) as known:
            _require_same(known, order, getattr(test, "num_classes", 0))
            missing = [count for count in wanted if count not in known.known]
            job = Job(place, tuple(tuple(order[:count]) for count in missing))
            for _, at, counted in (engine or LocalEngine()).map(own, [job]):
                count = missing[at]
                shares, figures = counted.per_class_accuracy, dict(counted.figures.values)
                row = SweepRow(count, figures, shares, tuple(order[:count]))
                known.add(asdict(row))
                if on_row is not None:
                    on_row(row)
    finally:
        if forks is None:
            own.close()
    ordered = tuple(_row(known.known[count]) for count in sorted(known.known))
    return ChannelSweep(layer, where, chosen.name, scores, ordered, own.task.lower_is_better)


def _require_same(known: Rows, order: Sequence[int], classes: int) -> None:
    """A row that is known zeroed what it would zero now, and judged as many classes."""
    for row in known.known.values():
        judged = len(row["per_class_accuracy"])
        if list(row["removed"]) != list(order[: row["count"]]) or (judged and judged != classes):
            raise CheckpointError(
                f"{known.path} holds the rows of another sweep",
                [f"{row['count']} channels: others were zeroed there, or other classes judged"],
                "name another file",
            )


def _row(row: Any) -> SweepRow:
    shares, removed = tuple(row["per_class_accuracy"]), tuple(row["removed"])
    return SweepRow(row["count"], row["figures"], shares, removed)
