"""Sparse training: the batch-norm scales that a strategy will prune are pulled to zero, by a schedule.

    gradient of gamma  +=  strength(gamma, progress) * sign(gamma)

    constant       s, always
    global-decay   s; from half of the run on s / 100, so that what is left can recover
    local-decay    s for the lowest 85 % of all pulled scales, s / 100 for the top 15 %, which will be kept

`s` is in units of the loss per image. Pulling a scale that nothing will prune costs accuracy and gains
nothing, so the strategy names the tensors.

References:
    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, equation 1.
    https://arxiv.org/abs/1708.06519
    The decays: tanluren/yolov3-channel-and-layer-pruning, README.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.strategy import strategies
from secateur.errors import RequestError
from secateur.penalise.sparsity import near_zero_share
from secateur.pipeline import couple
from secateur.registry import Registry

__all__ = ["DECAY", "KEPT_SHARE", "Sparsity", "schedules", "sparsity_for"]

DECAY = 0.01
"""What is left of the strength after a decay."""

KEPT_SHARE = 0.15
"""Share of the scales that local decay takes for those that will be kept."""

schedules: Registry[Callable[[Tensor, float], Tensor]] = Registry("sparsity schedule")
"""From all pulled scales as one vector, and the share of the run that is done, to a factor for each."""


@schedules("constant")
def constant(gammas: Tensor, progress: float) -> Tensor:
    """Pull all scales equally hard, all the time."""
    return torch.ones_like(gammas)


@schedules("global-decay")
def global_decay(gammas: Tensor, progress: float) -> Tensor:
    """Pull a hundredth as hard from half of the run on.

    Example:
        >>> global_decay(torch.ones(2), 0.49), global_decay(torch.ones(2), 0.5)
        (tensor([1., 1.]), tensor([0.0100, 0.0100]))
    """
    return torch.full_like(gammas, 1.0 if progress < 0.5 else DECAY)


@schedules("local-decay")
def local_decay(gammas: Tensor, progress: float) -> Tensor:
    """Pull the largest 15 % of the scales, across all layers, a hundredth as hard.

    Example:
        >>> local_decay(torch.tensor([0.1, -3.0, 0.2, 0.3, 0.4, 0.5, 0.6]), 0.0)
        tensor([1.0000, 0.0100, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """
    kept = round(KEPT_SHARE * len(gammas))
    factors = torch.ones_like(gammas)
    factors[gammas.abs().topk(kept).indices] = DECAY
    return factors


@dataclass(frozen=True)
class Sparsity:
    """What is pulled to zero, how hard, and when.

    Attributes:
        strength: `s`: loss per unit of gamma and image, at least 0.
        tensors: Names of the batch-norm scales, as in the network's state dict.
        schedule: "constant", "global-decay" or "local-decay".

    Raises:
        RequestError: A negative strength, no tensor, or an unknown schedule.

    Example:
        >>> norm = nn.Sequential(nn.BatchNorm2d(2))
        >>> sparsity = Sparsity(0.1, ("0.weight",))
        >>> norm[0].weight.grad = torch.tensor([1.0, 1.0])
        >>> sparsity.pull(norm, progress=0.0)
        >>> norm[0].weight.grad
        tensor([1.1000, 1.1000])
    """

    strength: float
    tensors: tuple[str, ...]
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise RequestError(f"the sparsity is {self.strength:g}", ["allowed: 0 or more"], "raise it")
        if not self.tensors:
            do = "choose another strategy"
            raise RequestError("no batch-norm scale is to be pulled: nothing can be pruned", do=do)
        schedules[self.schedule]  # an unknown name shall be refused here, not an epoch later

    def scales(self, model: nn.Module) -> list[nn.Parameter]:
        """Find the scales in a network.

        Raises:
            RequestError: The network has no such tensor.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        absent = [name for name in self.tensors if name not in named]
        if absent:
            what = f"{len(absent)} of {len(self.tensors)} scales to pull are not in the network"
            raise RequestError(what, absent, "name the batch-norm weights of this very network")
        return [named[name] for name in self.tensors]

    def strengths(self, scales: Sequence[Tensor], progress: float) -> list[Tensor]:
        """Compute how hard each entry of each scale is pulled.

        Args:
            scales: The scales.
            progress: Share of the run's steps that are done, from 0 to 1.

        Returns:
            A tensor like each scale.
        """
        flat = torch.cat([scale.detach().flatten() for scale in scales])
        factors = schedules[self.schedule](flat, progress) * self.strength
        return list(factors.split([scale.numel() for scale in scales]))

    def near_zero(self, model: nn.Module) -> float:
        """The share of the pulled scales that is near zero: about what can be pruned at no cost."""
        return near_zero_share(self.scales(model))

    @torch.no_grad()
    def pull(self, model: nn.Module, progress: float) -> None:
        """Add the penalty's subgradient to the unscaled gradients of the scales.

        Args:
            model: The network, after its backward pass.
            progress: Share of the run's steps that are done, from 0 to 1.
        """
        scales = self.scales(model)
        for scale, strength in zip(scales, self.strengths(scales, progress), strict=True):
            if scale.grad is None:
                scale.grad = torch.zeros_like(scale)
            scale.grad.addcmul_(scale.sign(), strength)


def sparsity_for(model: Darknet, strategy: str, strength: float, schedule: str = "constant") -> Sparsity:
    """Pull the scales that a strategy will prune by.

    Args:
        model: The network.
        strategy: A registered strategy, such as "normal".
        strength: `s`.
        schedule: "constant", "global-decay" or "local-decay".

    Returns:
        The settings of sparse training.

    Raises:
        RequestError: The strategy prunes nothing of this network, or a word is unknown.

    Example:
        >>> model = Darknet("digits")
        >>> len(sparsity_for(model, "slim", 0.1).tensors), len(sparsity_for(model, "normal", 0.1).tensors)
        (19, 10)
    """
    image = torch.zeros(1, 3, 2 * model.stride, 2 * model.stride, device=next(model.parameters()).device)
    scales = strategies[strategy].prunable(model, couple(model, image))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return Sparsity(strength, tuple(names[id(scale)] for scale in scales), schedule)
