"""What a report says: data only, so that every format shows the same facts and none needs torch.

Shares (accuracies, ratios) lie in 0..1, sizes are in bytes, times in milliseconds. A part that is not known
is None or empty, and its section or column is left out. The report carries its own date and command, so the
same `Report` always renders to the same bytes.
"""

from dataclasses import dataclass, fields
from typing import Literal

from secateur.reports.charts import Scale
from secateur.reports.section import Section


@dataclass(frozen=True)
class ModelRow:
    """A model with what it costs and how good it is; None for what was not measured.

    Args:
        name: The stage that it is of ("dense", "sparse", "pruned", "recovered", "finetuned"), or what else
            tells it from others.
        accuracy: The report's metric on the test images; a share from 0 to 1, or a figure of its own scale.
        params: Number of parameters.
        macs: Multiply-accumulates for one input.
        size_bytes: Size of the weights file.
        latency_ms: Median time of one forward pass.
        note: A remark, such as "before fine-tuning".
        validation_accuracy: The same on the validation images, by which the checkpoint was chosen.
        memory_bytes: What a forward pass needs at once.
        run: Of a comparison, the run that made it.

    Example:
        >>> ModelRow("dense", 0.9861, 20_040_522, 399_000_000, 80_312_000, 4.1).note
        ''
    """

    name: str
    accuracy: float | None
    params: int | None
    macs: int | None
    size_bytes: int | None
    latency_ms: float | None
    note: str = ""
    validation_accuracy: float | None = None
    memory_bytes: int | None = None
    run: str = ""


@dataclass(frozen=True)
class LayerRow:
    """One layer before and after the cut.

    Args:
        name: Qualified module name, such as "features.0".
        kind: Class of the layer, such as "Conv2d".
        channels_before: Output channels of the original.
        channels_after: Output channels that were kept.
        params_before: Parameters of the original layer.
        params_after: Parameters of the cut layer.
        macs_before: Multiply-accumulates of the original layer.
        macs_after: Multiply-accumulates of the cut layer.

    Example:
        >>> LayerRow("features.0", "Conv2d", 64, 20, 1728, 540, 110_592, 34_560).channels_after
        20
    """

    name: str
    kind: str
    channels_before: int
    channels_after: int
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class GroupRow:
    """One group of coupled channels, and what was decided about it.

    Args:
        name: The group, usually the layer that produces its channels.
        size: Channels of the original.
        kept: Channels that stay.
        status: "pruned", "kept" (free, but nothing was taken) or "protected" (may not shrink).
        reason: Why it is protected or was kept.

    Example:
        >>> GroupRow("classifier", 10, 10, "protected", "output of the model").kept
        10
    """

    name: str
    size: int
    kept: int
    status: Literal["pruned", "kept", "protected"]
    reason: str = ""


@dataclass(frozen=True)
class Curve:
    """The course of one training run; every series has one value per epoch, or is empty.

    Args:
        label: The run: "dense", "sparse", "finetune".
        epochs: Epoch numbers.
        train_loss: Mean loss over the training images.
        train_accuracy: Share of the training images that are right.
        val_accuracy: Share of the validation images that are right.
        near_zero_share: Share of batch-norm scales near zero, or None when nothing drove them there.

    Raises:
        ValueError: A series has another length than `epochs`.

    Example:
        >>> Curve("dense", (1, 2), (1.2, 0.7), (0.61, 0.8), (0.6,))
        Traceback (most recent call last):
        ...
        ValueError: curve 'dense' has 2 epochs but 1 values of val_accuracy
    """

    label: str
    epochs: tuple[int, ...]
    train_loss: tuple[float, ...] = ()
    train_accuracy: tuple[float, ...] = ()
    val_accuracy: tuple[float, ...] = ()
    near_zero_share: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("train_loss", "train_accuracy", "val_accuracy", "near_zero_share"):
            found = len(getattr(self, name) or ())
            if found not in (0, len(self.epochs)):
                raise ValueError(
                    f"curve '{self.label}' has {len(self.epochs)} epochs but {found} values of {name}"
                )


@dataclass(frozen=True)
class GammaHistory:
    """Histograms of the absolute batch-norm scales, one per epoch.

    Args:
        edges: Borders of the bins, increasing; one more than there are bins.
        counts: For every epoch, from the first on, how many scales fell into each bin.
        threshold: The scale below which channels were pruned, where one number says it.

    Raises:
        ValueError: The bins of an epoch do not match the edges.

    Example:
        >>> GammaHistory((0.0, 0.5, 1.0), ((3, 61), (40, 24)), threshold=0.02).counts[1]
        (40, 24)
    """

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    threshold: float | None = None

    def __post_init__(self) -> None:
        bins = len(self.edges) - 1
        for epoch, row in enumerate(self.counts, start=1):
            if len(row) != bins:
                raise ValueError(f"epoch {epoch} has {len(row)} bins but the edges make {bins}")
        if any(right <= left for left, right in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of the histogram do not increase")

    @property
    def has_counts(self) -> bool:
        """Whether there is anything to show."""
        return any(map(any, self.counts))


@dataclass(frozen=True)
class VerdictRow:
    """Whether the cut network computes what the masked one does.

    Args:
        status: "exact", "renormalised" (equal up to statistics over the kept positions) or "failed".
        relative_error: Largest deviation, relative to the size of the output.
        nodes_checked: Operators whose shapes were compared.
        detail: More about it, such as the first node that deviates.

    Example:
        >>> VerdictRow("exact", 1.3e-15, 57).status
        'exact'
    """

    status: Literal["exact", "renormalised", "failed"]
    relative_error: float
    nodes_checked: int
    detail: str = ""


@dataclass(frozen=True)
class AccuracySplit:
    """Which images trained, which chose the checkpoint, and which only report.

    Args:
        data_set: Name of the data set.
        train_images: Number of images that trained.
        validation_images: Number of images held out of training.
        test_images: Number of images that neither trained nor chose.
        chosen_on: The images that chose the best checkpoint.
        reported_on: The images behind the reported accuracy.

    Example:
        >>> AccuracySplit("digits", 1149, 288, 360).reported_on
        'test'
    """

    data_set: str
    train_images: int
    validation_images: int
    test_images: int
    chosen_on: str = "validation"
    reported_on: str = "test"


@dataclass(frozen=True)
class Report:
    """Everything a report shows; parts that are empty or None are left out.

    Args:
        title: Headline, such as "VGG-11 on digits".
        created: When it was made, as text; the caller knows the time, the report does not ask for it.
        command: The command line that made it.
        model: Name of the model, such as "zoo:vgg11".
        requested_ratio: Share of channels that was asked to be removed.
        achieved_ratio: Share of channels that was removed.
        stages: The model over the stages; the first is the point of comparison, the last is the result.
        layers: Every layer before and after the cut.
        groups: Every group of coupled channels.
        curves: The training runs.
        gamma: Batch-norm scales over the epochs of sparse training.
        verdict: The proof that the cut is right.
        split: Which images chose and which report.
        notes: Remarks and warnings, one sentence each.
        written: What was written where: (label, path).
        metric: What the accuracies of the models are: "accuracy", "mAP@0.5".
        models: Models of no path: those of a sweep, or of the runs that are compared.
        more: Sections of what only one kind of thing has to say.
        lower_is_better: Of the metric.

    Example:
        >>> Report("VGG-11 on digits", "2026-01-31 12:00", "secateur demo", "zoo:vgg11").stages
        ()
    """

    title: str
    created: str
    command: str
    model: str
    requested_ratio: float | None = None
    achieved_ratio: float | None = None
    stages: tuple[ModelRow, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    gamma: GammaHistory | None = None
    verdict: VerdictRow | None = None
    split: AccuracySplit | None = None
    notes: tuple[str, ...] = ()
    written: tuple[tuple[str, str], ...] = ()
    metric: str = "accuracy"
    models: tuple[ModelRow, ...] = ()
    more: tuple[Section, ...] = ()
    lower_is_better: bool = False

    @property
    def scale(self) -> Scale:
        """How the metric is shown."""
        scores = [
            one
            for model in (*self.stages, *self.models)
            for one in (model.accuracy, model.validation_accuracy)
        ]
        return Scale.of(self.metric, [score for score in scores if score is not None])

    @property
    def chosen_on(self) -> str:
        """The images that chose the checkpoints."""
        return self.split.chosen_on if self.split else "validation"

    @property
    def reported_on(self) -> str:
        """The images behind the reported accuracy."""
        return self.split.reported_on if self.split else "test"

    def __str__(self) -> str:
        plain = ("title", "created", "command", "model", "metric", "lower_is_better")
        named = [field.name for field in fields(self) if field.name not in plain]
        parts = [name for name in named if getattr(self, name) not in ((), None)]
        return f"report '{self.title}' with {', '.join(parts) or 'nothing in it yet'}"
