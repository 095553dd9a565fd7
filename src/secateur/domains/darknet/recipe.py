"""How a detector is trained: what `[net]` of the cfg says, unless asked otherwise.

    rate(t) = lr (t / (burn_in T))^4                          the first burn_in T of T steps
    constant: lr     steps: lr times the scales passed     poly: lr (1 - t / T)^4     cosine: half a cosine

Darknet counts in batches of `max_batches`. Here burn_in and steps are shares of the run, so that a run of
other length has the same shape.

Source: `get_current_rate` of Darknet's `src/network.c`; only convolution kernels decay, as in its
`update_convolutional_layer`. Cosine: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.domains.darknet.cfg import NET, Config
from secateur.domains.darknet.layers import input_place
from secateur.domains.darknet.loss import BOX_LOSSES
from secateur.errors import RequestError

__all__ = ["Recipe"]

_POWER = 4
_CHOICES: dict[str, tuple[str, ...]] = {
    "policy": ("constant", "steps", "poly", "cosine"),
    "optimizer": ("sgd", "adamw"),
    "precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "keep": ("best", "last"),
}
_SHARES = {"momentum": 0.9, "burn_in": 0.05, "ema": 0.999}


@dataclass(frozen=True)
class Recipe:
    """One training run of a detector.

    Attributes:
        epochs: How often the training images are gone through.
        lr: Learning rate after the warm-up.
        momentum: Of SGD; AdamW's first beta.
        decay: L2 decay of convolution kernels; nothing else decays.
        policy: How the rate goes on: "constant", "steps", "poly" or "cosine".
        burn_in: Share of the run in which the rate rises.
        steps: Shares of the run after which the rate is multiplied by `scales`.
        scales: The factors.
        optimizer: "sgd" or "adamw".
        nesterov: Nesterov's variant of SGD's momentum, which Darknet has not; steadier at high rates.
        subdivisions: Pieces that a batch goes through the network in, to save memory.
        box_loss: "mse", "iou", "giou", "diou" or "ciou"; None takes what each head's cfg says.
        clip: Largest norm of all gradients together, which Darknet has not; 0 for no limit.
        ema: Decay of a moving average of the weights, which is then what is validated and kept; 0 for none.
            It grows towards this value: min(ema, (1 + t) / (10 + t)) at step t.
        distillation: Weight of the distance to a teacher, if there is one.
        validate_every: Epochs between two validations; the last epoch is always validated.
        keep: Which weights the result holds: those of the epoch with the "best" mAP, or the "last".
        seed: Seeds what the network draws; order and augmentation are the loader's.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        precision: "32-true", "bf16-mixed", "16-mixed", or "auto": bf16 or 16 on a GPU, 32 elsewhere.
        channels_last: Train in the memory format that convolutions are faster in, unless a layer is not safe
            in it (`secateur.capture.layouts`).
        threads: Threads of the CPU; None leaves torch's setting.
        log_interval: Steps between two lines of progress where no bar can be shown; 0 for none.
        quiet: Show neither bars nor lines.
        save: Folder for a checkpoint after every epoch; None saves nothing.
        resume: Go on after the last complete epoch in `save`, if there is one.
        overwrite: Delete a run that is already in `save` and start anew.

    Raises:
        RequestError: A value makes no sense.

    Example:
        >>> recipe = Recipe(epochs=1, lr=0.1, burn_in=0.2, steps=(0.5,), scales=(0.1,))
        >>> [round(recipe.rate(step, 10), 4) for step in (0, 1, 4, 5)]
        [0.0063, 0.1, 0.1, 0.01]
    """

    epochs: int
    lr: float = 0.001
    momentum: float = 0.9
    decay: float = 5e-4
    policy: str = "steps"
    burn_in: float = 0.0
    steps: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    optimizer: str = "sgd"
    nesterov: bool = False
    subdivisions: int = 1
    box_loss: str | None = None
    clip: float = 50.0
    ema: float = 0.0
    distillation: float = 1.0
    validate_every: int = 1
    keep: str = "best"
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    channels_last: bool = True
    threads: int | None = None
    log_interval: int = 0
    quiet: bool = False
    save: Path | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        if self.box_loss is not None:
            _require_choice("box_loss", self.box_loss, BOX_LOSSES)
        self._require_at_least(epochs=1, subdivisions=1, validate_every=1, decay=0, clip=0, distillation=0)
        self._require_at_least(seed=0, log_interval=0, **({} if self.threads is None else {"threads": 1}))
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise RequestError(f"lr is {self.lr:g}", ["allowed: lr > 0"], "pass a rate such as 0.001")
        for name, usual in _SHARES.items():
            if not 0 <= getattr(self, name) < 1:
                what = f"{name} is {getattr(self, name):g}"
                raise RequestError(what, [f"allowed: 0 <= {name} < 1"], f"pass a share such as {usual}")
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

    def _require_at_least(self, **smallest: float) -> None:
        for name, low in smallest.items():
            given = getattr(self, name)
            if not given >= low:
                raise RequestError(f"{name} is {given}", [f"allowed: {low} or more"], "raise it")

    @classmethod
    def of_cfg(cls, config: Config, batches: int, **overrides: Any) -> "Recipe":
        """Take what `[net]` says: rate, momentum, decay, burn_in, policy, steps, scales, subdivisions.

        Args:
            config: The cfg.
            batches: Batches of one epoch: `max_batches` over this, rounded up, is the number of epochs.
            overrides: Attributes that shall be otherwise; None means as in the cfg.

        Returns:
            The recipe.

        Raises:
            RequestError: A value is no number or makes no sense, or the policy is none that we follow.

        Example:
            >>> from secateur.domains.darknet import read_cfg
            >>> recipe = Recipe.of_cfg(read_cfg("digits"), batches=50, lr=0.01)
            >>> recipe.epochs, recipe.lr, recipe.burn_in, recipe.steps
            (24, 0.01, 0.05, (0.8, 0.9))
        """
        net = input_place(config)
        batches_in_all = net.integer("max_batches", 500_000, least=1)
        policy = config.net.get("policy", "constant") or "constant"
        policy = "cosine" if policy == "sgdr" else policy
        if policy not in _CHOICES["policy"] and overrides.get("policy") is None:
            do = f"choose another: {', '.join(_CHOICES['policy'])}"
            raise config.error(f"policy={policy} is not followed", NET, "policy", do=do)
        found: dict[str, Any] = {
            "epochs": -(-batches_in_all // batches),
            "lr": net.number("learning_rate", 0.001),
            "momentum": net.number("momentum", 0.9),
            "decay": net.number("decay", 0.0001),
            "policy": policy,
            "burn_in": min(net.number("burn_in", 0) / batches_in_all, 0.5),
            "subdivisions": net.integer("subdivisions", 1, least=1),
        }
        if policy == "steps":
            found["steps"] = tuple(step / batches_in_all for step in net.numbers("steps"))
            found["scales"] = net.numbers("scales")
        return cls(**{**found, **{name: value for name, value in overrides.items() if value is not None}})

    def rate(self, step: int, total: int) -> float:
        """Compute the learning rate of one step.

        Args:
            step: Its index over the whole run, from 0.
            total: Number of steps of the whole run.

        Returns:
            The learning rate.
        """
        warm = self.burn_in * total
        if step + 1 < warm:
            return self.lr * ((step + 1) / warm) ** _POWER
        done = step / total
        if self.policy == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        if self.policy == "poly":
            return self.lr * (1 - done) ** _POWER
        if self.policy == "constant":
            return self.lr
        passed = (scale for at, scale in zip(self.steps, self.scales, strict=True) if done >= at)
        return self.lr * math.prod(passed)

    def deciding(self) -> Mapping[str, Any]:
        """Pick the settings that decide the result; a run is only resumed with the same ones."""
        names = (
            "epochs", "lr", "momentum", "decay", "policy", "burn_in", "steps", "scales", "optimizer",
            "nesterov", "subdivisions", "box_loss", "clip", "ema", "distillation", "validate_every", "seed",
            "precision", "channels_last",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{name} is {value!r}", [f"allowed: {', '.join(choices)}"], "pass one of them")
