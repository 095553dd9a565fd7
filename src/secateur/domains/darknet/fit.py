"""Train a detector: YOLOv3's loss in the engine of `secateur.train`."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.domains.darknet.data import Loader
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.recipe import DetectorFitConfig
from secateur.domains.darknet.sparsity import ScalePenalty
from secateur.domains.darknet.task import Detection, LoaderPart
from secateur.errors import RequestError
from secateur.train.device import require_one_process
from secateur.train.distil import Distillation
from secateur.train.history import EpochRecord
from secateur.train.loop import Run

__all__ = ["DetectorRecord", "Teaching", "TrainedDetector", "fit_detector"]


@dataclass(frozen=True, eq=False)
class Teaching:
    """What else a network learns from than labels.

    Attributes:
        sparsity: Pulls batch-norm scales to zero.
        teacher: Its raw maps are imitated; same anchors, classes and strides.
    """

    sparsity: ScalePenalty | None = None
    teacher: Darknet | None = None


@dataclass(frozen=True)
class DetectorRecord(EpochRecord):
    """The figures of one epoch of a detector.

    Attributes:
        skipped: Training images that could not be read.
    """

    skipped: int = 0

    @property
    def loss(self) -> float:
        """All parts together, without the sparsity penalty."""
        return self.train_loss + self.distillation

    @property
    def classes(self) -> float:
        """The part of the loss about what things are."""
        return self.losses["classes"]

    @property
    def map50(self) -> float | None:
        """Mean average precision at IoU 0.5 on the validation images; None if it was not measured."""
        return self.figures.values["mAP50"] if self.figures else None

    @property
    def map(self) -> float | None:
        """Over IoU 0.5 to 0.95; None likewise."""
        return self.figures.values["mAP"] if self.figures else None


@dataclass(frozen=True)
class TrainedDetector:
    """A trained network and how it came about.

    Attributes:
        model: A new network with the weights of epoch `kept_epoch`.
        history: One record an epoch, those before a resumption included.
        best_epoch: The epoch with the highest mAP@0.5; the last one if none was measured; 0 for the start,
            where that was asked for.
        kept_epoch: The best epoch, or the last where that was asked for.
        broken: Training images that could not be read: name and reason.
        notes: What else the user should know, such as layers that did not run as was asked.
        start: The figures of the network that came in, as epoch 0; None if it was not looked at.
    """

    model: Darknet = field(repr=False)
    history: tuple[DetectorRecord, ...]
    best_epoch: int
    kept_epoch: int
    broken: Mapping[str, str]
    notes: tuple[str, ...] = ()
    start: DetectorRecord | None = None

    @property
    def kept(self) -> DetectorRecord:
        """The record of the epoch whose weights the network has, or of the start."""
        if self.start is not None and self.kept_epoch == 0:
            return self.start
        return self.history[self.kept_epoch - 1]

    def numbers(self) -> dict[str, Any]:
        """The figures for machines."""
        return {
            "epochs": len(self.history),
            "kept_epoch": self.kept_epoch,
            "loss": self.kept.loss,
            "map50": self.kept.map50,
            "map": self.kept.map,
            "near_zero_share": self.kept.near_zero_share,
            "broken": dict(self.broken),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        kept = self.kept
        result = "" if kept.map50 is None else f": mAP@0.5 {kept.map50:.4f}, mAP {kept.map:.4f}"
        which = f"epoch {self.kept_epoch}" if self.kept_epoch else "the start, as none is better"
        lines = [f"trained {len(self.history)} epochs, kept {which}{result}"]
        lines += [f"  left out {name}: {reason}" for name, reason in self.broken.items()]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Loaders:
    train: LoaderPart
    validation: LoaderPart | None


def fit_detector(
    model: Darknet,
    train: Loader,
    valid: Loader | None,
    recipe: DetectorFitConfig,
    teaching: Teaching | None = None,
    *,
    on_checkpoint: Callable[[Path, Darknet], None] | None = None,
) -> TrainedDetector:
    """Train a network and return a new one.

    Args:
        model: The network to start from, cut or not; it is copied, not changed.
        train: Augmented batches, `loader(..., training=True)`; it says the batch size and the input sizes.
        valid: Batches of the validation images; None measures no mAP, and keeps the last epoch.
        recipe: Epochs, learning rate and so on.
        teaching: Sparse training, a teacher.
        on_checkpoint: Called with the folder of each checkpoint before it gets its name, and the network, to
            add files to it.

    Returns:
        The network with the weights of the best epoch (or the last), on the device it was on, the history,
        and the images that could not be read.

    Raises:
        RequestError: Settings, network and data do not fit together, or `save` holds another run.
        CheckpointError: The checkpoint to resume from is truncated or of another network.
        DataError: No image can be read.
        SecateurError: The loss is no longer a number; the last complete checkpoint remains.

    Example:
        >>> from secateur.domains.darknet.data import digit_scenes, loader
        >>> scenes = digit_scenes(train=4, valid=0)
        >>> batches = loader(scenes["train"], scenes.names, 64, 2, training=True)
        >>> trained = fit_detector(Darknet("digits"), batches, None, DetectorFitConfig(epochs=1, quiet=True))
        >>> len(trained.history), trained.kept_epoch, trained.model.header.seen
        (1, 1, 4)
    """
    require_one_process()
    data = _Loaders(LoaderPart(train), None if valid is None else LoaderPart(valid))
    task, teaching = Detection(recipe.box_loss), teaching or Teaching()
    if not train.training:
        what = "the training batches are not shuffled and not augmented"
        raise RequestError(what, do="pass loader(..., training=True)")
    if train.batch_size < 2:
        do = "pass a batch size of 2 or more"
        raise RequestError(f"a batch of {train.batch_size} image cannot be normalised", do=do)
    task.require(model, data.train)
    config = dataclasses.replace(
        recipe,
        batch_size=train.batch_size,
        evaluation_batch_size=recipe.evaluation_batch_size if valid is None else valid.batch_size,
    )
    penalty = None if teaching.sparsity is None else teaching.sparsity.penalty(model)
    imitated = None
    if teaching.teacher is not None:
        imitated = Distillation(teaching.teacher, weight=recipe.distillation, labels=1.0)
    run = Run(model, task, data, config, penalty, imitated)

    def write(folder: Path) -> None:
        if on_checkpoint is not None:
            on_checkpoint(folder, _with_seen(run.kept_model, model, run.history))

    result = run.fit(on_checkpoint=write)
    history = tuple(
        DetectorRecord(**vars(record), skipped=len(train.samples) - record.samples)
        for record in result.history
    )
    trained = _with_seen(result.model, model, result.history if result.kept_epoch else ())
    broken = dict(train.broken)
    start = None if result.start is None else DetectorRecord(**vars(result.start))
    return TrainedDetector(
        trained, history, result.best_epoch, result.kept_epoch, broken, result.notes, start
    )


def _with_seen(network: Any, start: Darknet, history: tuple[EpochRecord, ...]) -> Darknet:
    """Count the images that a network has seen in its header, as Darknet does."""
    seen = start.header.seen + sum(record.samples for record in history)
    network.header = dataclasses.replace(network.header, seen=seen)
    return network
