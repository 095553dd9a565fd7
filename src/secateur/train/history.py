"""What a training run reports: one record per epoch, and the result."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from secateur.train.figures import Figures


@dataclass(frozen=True)
class EpochRecord:
    """The figures of one epoch.

    Args:
        epoch: Number of the epoch, from 1.
        lr: Learning rate of its last step.
        losses: Parts of the task's loss, by name: means over the samples as they were trained on, without
            penalty and teacher.
        watched: What else the task averages over them, such as accuracy.
        figures: How good the network was after the epoch on the validation part; None if it was not measured.
        penalty: What the penalty adds to the loss after the epoch; 0 without one.
        distillation: Mean distance to the teacher while it was trained, weighted as it counts in the loss; 0
            without one.
        near_zero_share: Share of the watched batch-norm scales below `secateur.penalise.sparsity.NEAR_ZERO`:
            the penalised ones, or all where there is no penalty.
        gammas: Histogram of their magnitudes, in the bins of `secateur.penalise.sparsity.GAMMA_EDGES`.
        samples: How many samples were trained on.
        seconds: Wall time of training and validation.

    Example:
        >>> print(EpochRecord(1, 0.1, {"box": 1.0, "class": 0.5}, {}, Figures({"mAP": 0.25}, 8), seconds=2.0))
        epoch 1  lr 0.1  loss 1.5000 (box 1.0000, class 0.5000)  validation mAP 0.2500  2.0 s
    """

    epoch: int
    lr: float
    losses: Mapping[str, float]
    watched: Mapping[str, float]
    figures: Figures | None
    penalty: float = 0.0
    distillation: float = 0.0
    near_zero_share: float = 0.0
    gammas: tuple[int, ...] = ()
    samples: int = 0
    seconds: float = 0.0

    @property
    def train_loss(self) -> float:
        """The task's loss, without penalty and teacher; NaN of a start, which nothing was trained on."""
        return sum(self.losses.values()) if self.losses else math.nan

    @property
    def train_accuracy(self) -> float:
        """Share of the training samples that were right, where the task watches it."""
        return self.watched["accuracy"]

    @property
    def val_loss(self) -> float:
        """Of the validation part, where that is a figure."""
        return self.validated.values["loss"]

    @property
    def val_accuracy(self) -> float:
        """Share of the validation samples that are right, where that is a figure."""
        return self.validated.values["accuracy"]

    @property
    def validated(self) -> Figures:
        """The figures of an epoch after which the network was validated.

        Raises:
            ValueError: It was not.
        """
        if self.figures is None:
            raise ValueError(f"the network was not validated after epoch {self.epoch}")
        return self.figures

    def __str__(self) -> str:
        parts = f" ({_listed(self.losses)})" if len(self.losses) > 1 else ""
        teacher = f" + teacher {self.distillation:.4f}" if self.distillation else ""
        words = [f"epoch {self.epoch}  lr {self.lr:.2g}  loss {self.train_loss:.4f}{parts}{teacher}"]
        words += [f"training {_listed(self.watched)}"] if self.watched else []
        words += [f"validation {_listed(self.figures.values)}"] if self.figures else []
        words += [f"near zero {self.near_zero_share * 100:.0f} %"] if any(self.gammas) else []
        return "  ".join([*words, f"{self.seconds:.1f} s"])


@dataclass(frozen=True)
class FitResult:
    """A trained model and how it came about.

    Args:
        model: A new model with the weights of epoch `kept_epoch`.
        history: One record per epoch, those before a resumption included.
        best_epoch: The epoch with the best deciding figure on the validation part, the latest of equals; the
            last one if none was measured; 0 if the start was looked at and none is better.
        kept_epoch: The best epoch, or the last where `keep="last"` was asked for.
        notes: What else the user should know, such as layers that did not run as was asked.
        start: The figures of the model that came in, as epoch 0; None if it was not looked at.
    """

    model: nn.Module = field(repr=False)
    history: tuple[EpochRecord, ...]
    best_epoch: int
    kept_epoch: int
    notes: tuple[str, ...] = ()
    start: EpochRecord | None = None

    @property
    def kept(self) -> EpochRecord:
        """The record of the epoch whose weights the model has, or of the start."""
        if self.start is not None and self.kept_epoch == 0:
            return self.start
        return self.history[self.kept_epoch - 1]

    def __str__(self) -> str:
        epochs = f"trained {len(self.history)} {'epoch' if len(self.history) == 1 else 'epochs'}"
        figures = f": validation {self.kept.figures}" if self.kept.figures else ""
        kept = f"kept epoch {self.kept_epoch}" if self.kept_epoch else "kept the start, as none is better"
        return f"{epochs}, {kept}{figures}"


def find_best_epoch(history: tuple[EpochRecord, ...], start: EpochRecord | None = None) -> int:
    """Find the epoch with the best deciding figure; of equals the latest, which is the sparsest.

    Args:
        history: One record per epoch, at least one without a start.
        start: The record of what came in, as epoch 0; None if it does not count.

    Returns:
        Number of the epoch, from 1; the last one if none was validated. 0 where the start counts and no epoch
        is better.
    """
    measured = [(record.epoch, record.figures) for record in history if record.figures is not None]
    if not measured:
        return len(history) if start is None else 0
    best, figures = measured[0]
    for epoch, other in measured[1:]:
        if not figures.is_better_than(other):
            best, figures = epoch, other
    is_better = start is None or start.figures is None or figures.is_better_than(start.figures)
    return best if is_better else 0


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
