"""How a training run is set up; the defaults are those of network slimming."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from secateur.errors import RequestError

_CHOICES = {
    "schedule": ("step", "cosine", "constant", "poly", "steps"),
    "optimizer": ("sgd", "adamw"),
    "precision": ("32-true", "bf16-mixed", "16-mixed", "auto"),
    "keep": ("best", "last", "best-or-start"),
}
_SHARES = {"momentum": 0.9, "burn_in": 0.05, "ema": 0.999}
_NOT_DECIDING = frozenset(
    (
        "keep", "evaluation_batch_size", "device", "threads", "workers", "pin_memory", "log_interval",
        "quiet", "save", "resume", "overwrite", "tensorboard",
    )
)  # fmt: skip


TUNING: dict[str, Any] = {"lr": 0.02, "schedule": "cosine", "burn_in": 0.1, "keep": "best-or-start"}
"""For a network that is good already: a rate that rises first, and no result that is worse."""


@dataclass(frozen=True)
class FitConfig:
    """One training run.

    Args:
        epochs: How often the training samples are gone through.
        lr: Learning rate at the start, or after the warm-up.
        momentum: Momentum of SGD; AdamW's first beta.
        weight_decay: L2 decay of all parameters, batch-norm scales included.
        nesterov: Nesterov's variant of SGD's momentum.
        batch_size: Samples per step.
        schedule: How the learning rate goes on (`secateur.train.schedule`): "step" cuts it tenfold after 50 %
            and again after 75 % of all steps; "cosine" lowers it to zero along half a cosine; "poly" along a
            curve of fourth degree; "steps" multiplies it by `scales`; "constant" leaves it.
        seed: Seed of order, augmentation and dropout; on the CPU a run repeats bit for bit.
        keep: Which weights the result holds: those of the epoch that is "best" on the validation part, or the
            "last" ones; for sparse training the last are the sparsest. "best-or-start" looks at the model
            that comes in, too, and keeps its weights where no epoch is better.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        precision: "32-true", "bf16-mixed" or, on a GPU, "16-mixed"; "auto" is one of these on a GPU, else 32.
        channels_last: Train in the memory format that is 30-60 % faster for convolutions, unless a layer is
            not safe in it (`secateur.capture.layouts`); the result is contiguous.
        threads: Threads of the CPU; None leaves torch's setting.
        workers: Processes that prepare batches; 0 is faster for small images.
        pin_memory: Put batches in page-locked memory, for a GPU.
        log_interval: Steps between two lines of progress within an epoch where no bar can be shown; 0 for
            none.
        quiet: Show neither bars nor lines.
        save: Folder for a checkpoint after every epoch; None saves nothing.
        resume: Go on after the last complete epoch in `save`, if there is one.
        overwrite: Delete a run that is already in `save` and start anew.
        tensorboard: Folder for TensorBoard's event files; None writes none.
        optimizer: "sgd" or "adamw".
        kernels_only: Decay the parameters of two dims or more alone, not scales, shifts and biases.
        burn_in: Share of the run in which the learning rate rises from zero.
        steps: Shares of the run after which the schedule "steps" multiplies the learning rate by `scales`.
        scales: The factors.
        subdivisions: Pieces that a batch goes through the network in, to save memory.
        clip: Largest norm of all gradients together; 0 for no limit.
        ema: Decay of a moving average of the weights, which is then what is validated and kept; 0 for none.
            It grows towards this value: min(ema, (1 + t) / (10 + t)) at step t.
        validate_every: Epochs between two validations; the last epoch is always validated.
        patience: Stop after this many validations in a row that were no better than the best; 0 for never.
        evaluation_batch_size: Samples per batch of a validation.

    Raises:
        RequestError: A value makes no sense.

    Example:
        >>> FitConfig(epochs=3, schedule="cosin")
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: schedule is 'cosin'
          allowed: step, cosine, constant, poly, steps
          pass one of them
    """

    epochs: int
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    batch_size: int = 64
    schedule: Literal["step", "cosine", "constant", "poly", "steps"] = "step"
    seed: int = 0
    keep: Literal["best", "last", "best-or-start"] = "best"
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "32-true"
    channels_last: bool = True
    threads: int | None = None
    workers: int = 0
    pin_memory: bool = False
    log_interval: int = 0
    quiet: bool = False
    save: Path | None = None
    resume: bool = False
    overwrite: bool = False
    tensorboard: Path | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    kernels_only: bool = False
    burn_in: float = 0.0
    steps: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    subdivisions: int = 1
    clip: float = 0.0
    ema: float = 0.0
    validate_every: int = 1
    patience: int = 0
    evaluation_batch_size: int = 256

    @classmethod
    def for_tuning(cls, epochs: int = 10, **words: Any) -> Self:
        """The settings for a network that is good already, such as a cut one that was recovered.

        The learning rate rises over the first tenth of the run and falls along a cosine. Where no epoch is
        better than the start on the validation part, the start is what comes out.

        Args:
            epochs: As for all runs.
            **words: Further settings, in place of these.

        Example:
            >>> config = FitConfig.for_tuning(epochs=3, lr=0.005)
            >>> config.lr, config.schedule, config.burn_in, config.keep
            (0.005, 'cosine', 0.1, 'best-or-start')
        """
        return cls(**{"epochs": epochs, **TUNING, **words})

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                allowed = f"allowed: {', '.join(choices)}"
                raise RequestError(f"{name} is {getattr(self, name)!r}", [allowed], "pass one of them")
        self._require_numbers()
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            what = f"nesterov was asked for with {self.optimizer} and momentum {self.momentum:g}"
            raise RequestError(what, do="choose sgd with a momentum such as 0.9")
        if len(self.steps) != len(self.scales):
            what = f"{len(self.steps)} steps and {len(self.scales)} scales"
            raise RequestError(what, do="pass a factor for each step")
        if self.save is None and (self.resume or self.overwrite):
            word = "resume" if self.resume else "overwrite"
            raise RequestError(f"{word} was asked for, but no folder", do="pass the run's folder as save")
        if self.resume and self.overwrite:
            raise RequestError("resume and overwrite were both asked for", do="choose one of them")

    def _require_numbers(self) -> None:
        if self.seed >= 2**32:
            raise RequestError(f"seed is {self.seed}", [f"allowed: 0 to {2**32 - 1}"], "pass a smaller one")
        self.require_at_least(
            epochs=1, batch_size=2, evaluation_batch_size=1, subdivisions=1, validate_every=1
        )
        self.require_at_least(weight_decay=0, seed=0, workers=0, log_interval=0, clip=0, patience=0)
        if self.threads is not None:
            self.require_at_least(threads=1)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise RequestError(f"lr is {self.lr:g}", ["allowed: lr > 0"], "pass a rate such as 0.1")
        for name, usual in _SHARES.items():
            if not 0 <= getattr(self, name) < 1:
                what = f"{name} is {getattr(self, name):g}"
                raise RequestError(what, [f"allowed: 0 <= {name} < 1"], f"pass a share such as {usual}")

    def require_at_least(self, **smallest: float) -> None:
        """Refuse settings below their least values, by name."""
        for name, low in smallest.items():
            given = getattr(self, name)
            if not given >= low:
                raise RequestError(f"{name} is {given}", [f"allowed: {low} or more"], "raise it")

    def recipe(self) -> dict[str, object]:
        """Pick the settings that decide the result; a run can only be resumed with the same ones.

        Example:
            >>> sorted(FitConfig(epochs=1).recipe())[:4]
            ['batch_size', 'burn_in', 'channels_last', 'clip']
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {name: value for name, value in values.items() if name not in _NOT_DECIDING}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
