"""What a detector's training reports: one record an epoch, and the result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.domains.darknet.network import Darknet

__all__ = ["DetectorRecord", "Trained", "find_best"]


@dataclass(frozen=True)
class DetectorRecord:
    """The figures of one epoch; losses are means over its images.

    Attributes:
        epoch: Number of the epoch, from 1.
        lr: Learning rate of its last step.
        loss: Sum of the parts, without the sparsity penalty.
        box: Places and sizes.
        objectness: Whether there is something.
        classes: What it is.
        distillation: Distance to the teacher; 0 without one.
        map50: Mean average precision at IoU 0.5 on the validation images; None if it was not measured.
        map: Over IoU 0.5 to 0.95; None likewise.
        near_zero_share: Share of the pulled scales, or of all where none is pulled, below
            `secateur.penalise.sparsity.NEAR_ZERO`.
        skipped: Training images that could not be read so far.
        seconds: Wall time of training and validation.
    """

    epoch: int
    lr: float
    loss: float
    box: float
    objectness: float
    classes: float
    distillation: float
    map50: float | None
    map: float | None
    near_zero_share: float
    skipped: int
    seconds: float

    def __str__(self) -> str:
        words = [
            f"epoch {self.epoch}  lr {self.lr:.2g}  loss {self.loss:.3f} (box {self.box:.3f}, "
            f"objectness {self.objectness:.3f}, classes {self.classes:.3f}"
            + (f", distillation {self.distillation:.3f})" if self.distillation else ")")
        ]
        if self.map50 is not None:
            words.append(f"mAP@0.5 {self.map50:.4f}, mAP {self.map:.4f}")
        words.append(f"near zero {self.near_zero_share:.0%}")
        if self.skipped:
            words.append(f"{self.skipped} broken images")
        return "  ".join([*words, f"{self.seconds:.1f} s"])


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came about.

    Attributes:
        model: A new network with the weights of epoch `kept_epoch`.
        history: One record an epoch, those before a resumption included.
        best_epoch: The epoch with the highest mAP@0.5; the last one if none was measured.
        kept_epoch: The best epoch, or the last where that was asked for.
        broken: Training images that could not be read: name and reason.
    """

    model: Darknet = field(repr=False)
    history: tuple[DetectorRecord, ...]
    best_epoch: int
    kept_epoch: int
    broken: Mapping[str, str]

    @property
    def kept(self) -> DetectorRecord:
        """The record of the epoch whose weights the network has."""
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
        }

    def __str__(self) -> str:
        kept = self.kept
        result = "" if kept.map50 is None else f": mAP@0.5 {kept.map50:.4f}, mAP {kept.map:.4f}"
        lines = [f"trained {len(self.history)} epochs, kept epoch {self.kept_epoch}{result}"]
        lines += [f"  left out {name}: {reason}" for name, reason in self.broken.items()]
        return "\n".join(lines)


def find_best(history: tuple[DetectorRecord, ...]) -> int:
    """Find the epoch with the highest mAP@0.5, of equals the latest; the last one if none was measured.

    Args:
        history: One record an epoch, at least one.

    Returns:
        Number of the epoch, from 1.
    """
    return max(history, key=lambda record: (-1 if record.map50 is None else record.map50, record.epoch)).epoch
