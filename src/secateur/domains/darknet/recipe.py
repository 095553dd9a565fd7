"""How a detector is trained: what `[net]` of the cfg says, unless asked otherwise.

Darknet counts in batches of `max_batches`. Here burn_in and steps are shares of the run, so that a run of
other length has the same shape; the policies are those of `secateur.train.schedule`.

Source: `get_current_rate` of Darknet's `src/network.c`; only convolution kernels decay, as in its
`update_convolutional_layer`.
"""

from dataclasses import InitVar, dataclass
from typing import Any, Literal

from secateur.domains.darknet.cfg import NET, Config
from secateur.domains.darknet.layers import input_place
from secateur.domains.darknet.loss import BOX_LOSSES
from secateur.errors import RequestError
from secateur.train.config import FitConfig
from secateur.train.schedule import learning_rate

__all__ = ["DetectorFitConfig"]

_POLICIES = ("constant", "steps", "poly", "cosine")


@dataclass(frozen=True)
class DetectorFitConfig(FitConfig):
    """One training run of a detector: `FitConfig` with Darknet's defaults.

    Attributes:
        box_loss: "mse", "iou", "giou", "diou" or "ciou"; None takes what each head's cfg says.
        distillation: Weight of the distance to a teacher, if there is one.
        policy: How the rate goes on: constant, steps, poly or cosine; Darknet's word for the schedule.
        decay: L2 decay of convolution kernels, of nothing else; Darknet's word for the weight decay.

    Raises:
        RequestError: A value makes no sense.

    Example:
        >>> recipe = DetectorFitConfig(epochs=1, lr=0.1, burn_in=0.2, steps=(0.5,), scales=(0.1,))
        >>> [round(recipe.rate(step, 10), 4) for step in (0, 1, 4, 5)]
        [0.0063, 0.1, 0.1, 0.01]
    """

    lr: float = 0.001
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine", "constant", "poly", "steps"] = "steps"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "auto"
    kernels_only: bool = True
    clip: float = 50.0
    box_loss: str | None = None
    distillation: float = 1.0
    policy: InitVar[str | None] = None
    decay: InitVar[float | None] = None

    def __post_init__(self, policy: str | None, decay: float | None) -> None:
        for name, value in (("schedule", policy), ("weight_decay", decay)):
            if value is not None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        if self.schedule not in _POLICIES:
            what = f"policy is {self.schedule!r}"
            raise RequestError(what, [f"allowed: {', '.join(_POLICIES)}"], "pass one of them")
        if self.box_loss is not None and self.box_loss not in BOX_LOSSES:
            allowed = [f"allowed: {', '.join(BOX_LOSSES)}"]
            raise RequestError(f"box_loss is {self.box_loss!r}", allowed, "pass one of them")
        self.require_at_least(distillation=0)

    @classmethod
    def of_cfg(cls, config: Config, batches: int, **overrides: Any) -> "DetectorFitConfig":
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
            >>> recipe = DetectorFitConfig.of_cfg(read_cfg("digits"), batches=50, lr=0.01)
            >>> recipe.epochs, recipe.lr, recipe.burn_in, recipe.steps
            (24, 0.01, 0.05, (0.8, 0.9))
        """
        net = input_place(config)
        batches_in_all = net.integer("max_batches", 500_000, least=1)
        policy = config.net.get("policy", "constant") or "constant"
        policy = "cosine" if policy == "sgdr" else policy
        if policy not in _POLICIES and overrides.get("policy") is None:
            do = f"choose another: {', '.join(_POLICIES)}"
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
        """Compute the learning rate of one step of so many."""
        return learning_rate(self, step, total)
