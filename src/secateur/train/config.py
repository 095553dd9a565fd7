"""How a training run is set up; the defaults are those of network slimming."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secateur.errors import RequestError

_CHOICES = {
    "schedule": ("step", "cosine"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
    "keep": ("best", "last"),
}


@dataclass(frozen=True)
class FitConfig:
    """One training run with stochastic gradient descent.

    Args:
        epochs: How often the training images are gone through.
        lr: Learning rate at the start.
        momentum: Of SGD.
        weight_decay: L2 decay of all parameters, batch-norm scales included.
        nesterov: Nesterov's variant of momentum.
        batch_size: Images per step.
        schedule: "step" cuts the learning rate tenfold after 50 % and again after 75 % of all steps; "cosine"
            lowers it to zero along half a cosine.
        seed: Seeds order, augmentation and dropout; on the CPU a run repeats bit for bit.
        keep: Which weights the result holds: those of the epoch that is "best" on the validation images, or
            the "last" ones. For sparse training the last are the sparsest.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        precision: "32-true", "bf16-mixed" or, on a GPU, "16-mixed".
        channels_last: Train in the memory format that is 30-60 % faster for convolutions, unless a layer is
            not safe in it (`secateur.capture.layouts`); the result is contiguous.
        threads: Threads of the CPU; None leaves torch's setting.
        workers: Processes that prepare batches; 0 is faster for small images.
        pin_memory: Page-locked batches, for a GPU.
        log_interval: Steps between two lines of progress within an epoch where no bar can be shown; 0 for
            none.
        quiet: Show neither bars nor lines.
        save: Folder for a checkpoint after every epoch; None saves nothing.
        resume: Go on after the last complete epoch in `save`, if there is one.
        overwrite: Delete a run that is already in `save` and start anew.
        tensorboard: Folder for TensorBoard's event files; None writes none.

    Raises:
        RequestError: A value makes no sense.

    Example:
        >>> FitConfig(epochs=3, schedule="cosin")
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: schedule is 'cosin'
          allowed: step, cosine
          pass one of them
    """

    epochs: int
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    batch_size: int = 64
    schedule: Literal["step", "cosine"] = "step"
    seed: int = 0
    keep: Literal["best", "last"] = "best"
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
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

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                allowed = f"allowed: {', '.join(choices)}"
                raise RequestError(f"{name} is {getattr(self, name)!r}", [allowed], "pass one of them")
        self._require_at_least(epochs=1, batch_size=2, weight_decay=0, seed=0, workers=0, log_interval=0)
        if self.threads is not None:
            self._require_at_least(threads=1)
        if not self.lr > 0:
            raise RequestError(f"lr is {self.lr:g}", ["allowed: lr > 0"], "pass a rate such as 0.1")
        if not 0 <= self.momentum < 1:
            raise RequestError(f"momentum is {self.momentum:g}", ["allowed: 0 <= momentum < 1"], "pass 0.9")
        if self.nesterov and self.momentum == 0:
            raise RequestError("nesterov was asked for with momentum 0", do="pass a momentum such as 0.9")
        if self.save is None and (self.resume or self.overwrite):
            word = "resume" if self.resume else "overwrite"
            raise RequestError(f"{word} was asked for, but no folder", do="pass the run's folder as save")
        if self.resume and self.overwrite:
            raise RequestError("resume and overwrite were both asked for", do="choose one of them")

    def _require_at_least(self, **smallest: int) -> None:
        for name, low in smallest.items():
            given = getattr(self, name)
            if not given >= low:
                raise RequestError(f"{name} is {given}", [f"allowed: {low} or more"], "raise it")

    def recipe(self) -> dict[str, object]:
        """Pick the settings that decide the result; a run can only be resumed with the same ones.

        Example:
            >>> sorted(FitConfig(epochs=1).recipe())[:4]
            ['batch_size', 'channels_last', 'epochs', 'lr']
        """
        deciding = (
            "epochs", "lr", "momentum", "weight_decay", "nesterov", "batch_size", "schedule", "seed",
            "precision", "channels_last",
        )  # fmt: skip
        return {name: getattr(self, name) for name in deciding}
