"""What a training run reports: one record per epoch, and the result."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class EpochRecord:
    """The figures of one epoch. Accuracies are shares from 0 to 1, losses are mean cross entropies in nats.

    Args:
        epoch: Number of the epoch, from 1.
        lr: Learning rate of its last step.
        train_loss: Without the penalty, over the augmented images as they were trained on.
        train_accuracy: Likewise.
        val_loss: Over the validation images, after the epoch.
        val_accuracy: Likewise.
        penalty: What the penalty adds to the loss after the epoch; 0 without one.
        near_zero_share: Share of the watched batch-norm scales below `secateur.penalise.sparsity.NEAR_ZERO`:
            the penalised ones, or all where there is no penalty.
        gammas: Histogram of their magnitudes, in the bins of `secateur.penalise.sparsity.GAMMA_EDGES`.
        seconds: Wall time of training and validation.
        distillation: Mean distance to the teacher while it was trained, weighted as it counts in the loss; 0
            without one.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    penalty: float
    near_zero_share: float
    gammas: tuple[int, ...]
    seconds: float
    distillation: float = 0.0

    def __str__(self) -> str:
        sparsity = f"  near zero {self.near_zero_share * 100:.0f} %" if any(self.gammas) else ""
        distillation = f" + teacher {self.distillation:.4f}" if self.distillation else ""
        return (
            f"epoch {self.epoch}  lr {self.lr:.2g}  loss {self.train_loss:.4f}{distillation}  "
            f"accuracy {self.train_accuracy * 100:.2f} % train, {self.val_accuracy * 100:.2f} % validation"
            f"{sparsity}  {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class FitResult:
    """A trained model and how it came about.

    Args:
        model: A new model with the weights of epoch `kept_epoch`.
        history: One record per epoch, those before a resumption included.
        best_epoch: The epoch with the highest validation accuracy, the latest of equals.
        kept_epoch: The best epoch, or the last where `keep="last"` was asked for.
    """

    model: nn.Module
    history: tuple[EpochRecord, ...]
    best_epoch: int
    kept_epoch: int

    @property
    def kept(self) -> EpochRecord:
        """The record of the epoch whose weights the model has."""
        return self.history[self.kept_epoch - 1]

    def __str__(self) -> str:
        return (
            f"trained {len(self.history)} {'epoch' if len(self.history) == 1 else 'epochs'}, "
            f"kept epoch {self.kept_epoch}: "
            f"{self.kept.val_accuracy * 100:.2f} % of the validation images right"
        )


def find_best_epoch(history: tuple[EpochRecord, ...]) -> int:
    """Find the epoch with the highest validation accuracy; of equals the latest, which is the sparsest.

    Args:
        history: One record per epoch, at least one.

    Returns:
        Number of the epoch, from 1.
    """
    return max(history, key=lambda record: (record.val_accuracy, record.epoch)).epoch
