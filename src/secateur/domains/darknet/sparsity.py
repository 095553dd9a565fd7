"""Sparse training of a detector: the batch-norm scales that a strategy will prune are pulled to zero.

The pull is the penalty `secateur.penalise.bn_l1`. Pulling a scale that nothing will prune costs accuracy and
gains nothing, so the strategy names the tensors.
"""

from dataclasses import dataclass

import torch
from torch import nn

from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.strategy import strategies
from secateur.errors import RequestError
from secateur.penalise.bn_l1 import BnL1
from secateur.penalise.schedules import schedules
from secateur.penalise.sparsity import near_zero_share
from secateur.pipeline import couple

__all__ = ["ScalePenalty", "schedules", "sparsity_for"]


@dataclass(frozen=True)
class ScalePenalty:
    """What is pulled to zero, how hard, and when; by name, for any copy of a network.

    Attributes:
        strength: `s`: loss per unit of gamma and image, at least 0.
        tensors: Names of the batch-norm scales, as in the network's state dict.
        schedule: "constant", "global-decay" or "local-decay".

    Raises:
        RequestError: A negative strength, no tensor, or an unknown schedule.

    Example:
        >>> norm = nn.Sequential(nn.BatchNorm2d(2))
        >>> sparsity = ScalePenalty(0.1, ("0.weight",))
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

    def penalty(self, model: nn.Module) -> BnL1:
        """The penalty on the scales of a network.

        Raises:
            RequestError: The network has no such tensor.
        """
        return BnL1(self.scales(model), self.strength, self.schedule)

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

    def near_zero(self, model: nn.Module) -> float:
        """The share of the pulled scales that is near zero: about what can be pruned at no cost."""
        return near_zero_share(self.scales(model))

    def pull(self, model: nn.Module, progress: float) -> None:
        """Add the penalty's subgradient to the unscaled gradients of the scales.

        Args:
            model: The network, after its backward pass.
            progress: Share of the run's steps that are done, from 0 to 1.
        """
        self.penalty(model).step(progress)


def sparsity_for(model: Darknet, strategy: str, strength: float, schedule: str = "constant") -> ScalePenalty:
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
    return ScalePenalty(strength, tuple(names[id(scale)] for scale in scales), schedule)
