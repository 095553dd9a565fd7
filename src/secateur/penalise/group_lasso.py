"""Group lasso over whole channels: all coupled slices of a channel go to zero together, or none does.

    loss = task(W) + s * sum_groups sqrt(p_g) sum_c |theta_c|        |.| the Euclidean norm, not squared
    subgradient added to theta_c's:  s * sqrt(p_g) * theta_c / |theta_c|        0 where theta_c is 0

theta_c is everything that would be cut with channel c: its row of the kernel, its bias, its scale and shift,
and the columns of all that reads it; p_g is how many numbers that is, each counted once also where row and
column of a square weight cross. The norm pulls equally hard at any distance from zero, as the L1 norm does on
one number, but on the channel as a whole, so it works without batch norm. With sqrt(p_g) the pull on a single
number is about s, whatever the size of the group.

References:
    Yuan and Lin, "Model Selection and Estimation in Regression with Grouped Variables", JRSS B 2006, equation
    2.1. https://doi.org/10.1111/j.1467-9868.2005.00532.x
    Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016, section 3 (rows and
    columns of convolutions). https://arxiv.org/abs/1608.03665
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from secateur.coupling import Groups
from secateur.penalise import penalties
from secateur.penalise.scales import prunable_scales, require_all_channels
from secateur.penalise.slices import GroupSlices, coupled_slices, distinct, require_strength


@penalties("group-lasso")
@dataclass(frozen=True, eq=False)
class GroupLasso:
    """Pull whole channels to zero, all equally hard for their size.

    Make it with `GroupLasso.of`.

    Args:
        channels: The groups with their slices.
        strength: Loss per unit of the weighted norm, at least 0.
        scales: The batch-norm scales among them, for a run to watch.

    Example:
        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[3.0], [0.0]]))
        ...     _ = net[1].weight.copy_(torch.tensor([[4.0, 0.0]]))
        >>> penalty = GroupLasso.of(net, sc.couple(net, torch.zeros(1, 1)), strength=1.0)
        >>> penalty.step()
        >>> net[0].weight.grad.flatten(), net[1].weight.grad
        (tensor([0.8485, 0.0000]), tensor([[1.1314, 0.0000]]))
        >>> round(penalty.value(), 4)                            # sqrt(2) * |(3, 4)|
        7.0711
    """

    default_strength: ClassVar[float] = 1e-4
    needs_keep: ClassVar[bool] = False

    channels: tuple[GroupSlices, ...]
    strength: float
    scales: tuple[nn.Parameter, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        require_strength("group-lasso", self.strength)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        groups: Groups,
        strength: float,
        keep: Mapping[str, Sequence[int]] | None = None,
    ) -> "GroupLasso":
        """Make the penalty on all prunable groups of a model.

        Raises:
            RequestError: No group can be cut, one is frozen, or `keep` was passed.
        """
        require_all_channels("group-lasso", keep)
        scales = prunable_scales(model, groups)
        return cls(coupled_slices(model, groups), strength, tuple(scales))

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All parameters that have a slice."""
        return distinct(self.channels)

    @torch.no_grad()
    def step(self, progress: float = 1.0) -> None:
        """Add the subgradient to the unscaled gradients of all slices."""
        for group in self.channels:
            norms = group.squares().sqrt()
            factors = torch.where(norms > 0, self.strength * group.weight / norms, 0.0)
            group.pull(factors)

    @torch.no_grad()
    def value(self, progress: float = 1.0) -> float:
        """Compute `strength * sum sqrt(p) |theta|`, in units of the loss."""
        norms = (group.weight * group.squares().sqrt().sum().item() for group in self.channels)
        return self.strength * sum(norms)

    def recipe(self) -> dict[str, Any]:
        """The kind, the strength and how many channels."""
        count = sum(group.size for group in self.channels)
        return {"penalty": type(self).__name__, "s": self.strength, "penalised channels": count}
