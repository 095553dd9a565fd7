"""The channel sweep: zero the least channels of one layer, a few more each time, and see what is lost.

score_c = mean over images and pixels of the activation of channel c
accuracy(K) = accuracy with the K channels of the smallest scores zeroed
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from secateur.errors import RequestError
from secateur.score import Criterion
from secateur.score.criterion import Scorer, as_criterion
from secateur.sweep.draw import draw_curves
from secateur.sweep.engine import Engine, Job, LocalEngine
from secateur.sweep.forks import Forks
from secateur.sweep.rank import score_channels
from secateur.sweep.rows import fingerprint
from secateur.tables import printed
from secateur.train.classifier import Part
from secateur.write.figures import percent, points
from secateur.write.rows import Rows


@dataclass(frozen=True)
class SweepRow:
    """One number of channels.

    Attributes:
        count: How many channels are zeroed.
        accuracy: The share of the images that are classified right.
        per_class_accuracy: The same share among the images of each class; None for a class without images.
        removed: The channels, in the order of their scores.
    """

    count: int
    accuracy: float
    per_class_accuracy: tuple[float | None, ...]
    removed: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ChannelSweep:
    """Accuracy against the number of channels that are zeroed.

    Attributes:
        layer: The layer.
        where: "removed" (after its norm) or "output" (what the layer itself returns).
        criterion: What ordered the channels.
        scores: One score for each channel, float64.
        rows: By count; the first is the model as it is.
    """

    layer: str
    where: str
    criterion: str
    scores: Tensor
    rows: tuple[SweepRow, ...]

    @property
    def dense(self) -> SweepRow:
        """The model as it is."""
        return self.rows[0]

    def plot(self, path: Path | str) -> Path:
        """Draw accuracy against the number of channels.

        Args:
            path: A `.png` or `.svg` file; it is complete or not there.

        Raises:
            RequestError: Another kind of file.
            SecateurError: It cannot be written.
        """
        points = [(row.count, row.accuracy) for row in self.rows]
        title = f"{self.layer}: accuracy against channels zeroed, least {self.criterion} first"
        return draw_curves(path, {self.layer: points}, title, "channels zeroed")

    def table(self) -> Table:
        """The rows as `print` shows them."""
        table = Table("channels", "zeroed", "accuracy", "change", "worst class")
        for row in self.rows:
            worst = min(
                (share for share in row.per_class_accuracy if share is not None), default=row.accuracy
            )
            table.add_row(
                f"{row.count}",
                percent(row.count / len(self.scores)),
                percent(row.accuracy),
                points(self.dense.accuracy, row.accuracy),
                percent(worst),
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

    The accuracies are those of a loop that hooks the model and evaluates it each time.

    Args:
        model: The classifier; not changed.
        layer: Qualified name of the layer: a convolution or a linear layer.
        test: The images that are classified.
        counts: How many channels to zero, each from 0 to all of them; 0 is always evaluated.
        data: Batches to score the channels by; None takes the images of `test`.
        criterion: What orders the channels; the lowest go first, of equal ones the first.
        where: "removed" zeroes after the norm that follows the layer, as a cut does; "output" zeroes what the
            layer itself returns, after which a norm still adds its bias.
        rows: A file of JSON lines that grows with every row, and from which a stopped sweep goes on.
        on_row: Called with each new row.
        seed: For criteria that draw.
        forks: The model and `test` made ready, if several sweeps share them.
        engine: Who works the counts off; None does it here. Every engine computes the same numbers.
        **options: Further arguments of `Forks`, such as batch_size, rows, device or memory_bytes.

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
        batches = test.batches(own.batch_size) if data is None else data
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
        known = Rows(None if rows is None else Path(rows), opening, "count")
        missing = [count for count in wanted if count not in known.known]
        job = Job(place, tuple(tuple(order[:count]) for count in missing))
        for _, at, counted in (engine or LocalEngine()).map(own, [job]):
            count = missing[at]
            shares = counted.per_class_accuracy
            row = SweepRow(count, counted.accuracy, shares, tuple(order[:count]))
            known.add(asdict(row))
            if on_row is not None:
                on_row(row)
    finally:
        if forks is None:
            own.close()
    ordered = tuple(_row(known.known[count]) for count in sorted(known.known))
    return ChannelSweep(layer, where, chosen.name, scores, ordered)


def _row(row: Any) -> SweepRow:
    return SweepRow(row["count"], row["accuracy"], tuple(row["per_class_accuracy"]), tuple(row["removed"]))
