"""Network slimming's penalty: the L1 norm of the batch-norm scales.

    loss = task(W) + s * sum |gamma|        subgradient added to gamma's:  s * sign(gamma),  sign(0) = 0

A batch-norm scale multiplies a whole channel, so a sparse gamma is a sparse set of channels. The L1 norm
pulls equally hard at any distance from zero; scales that the task needs resist, the others arrive and stay.
A schedule (`penalise/schedules.py`) may weaken the pull late in the run, or on the largest scales.

References:
    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, equation 1.
    https://arxiv.org/abs/1708.06519
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.penalise import penalties
from secateur.penalise.scales import penalised_scales, require_all_channels
from secateur.penalise.schedules import schedules
from secateur.penalise.slices import require_strength


@penalties("bn-l1")
@dataclass(frozen=True)
class BnL1:
    """Pull batch-norm scales to zero, all equally hard.

    With mixed precision the backward pass leaves gradients that are multiplied by the loss scale. The
    subgradient is that of the loss itself, so `step` belongs after unscaling: `secateur.train.fit` unscales,
    calls `step`, and then lets the optimizer step (which does not unscale twice).

    Args:
        scales: The batch-norm weights to penalise, one entry per channel.
        strength: The paper's lambda, `--s` on the command line: loss per unit of gamma, at least 0.
        schedule: "constant", "global-decay" or "local-decay".

    Raises:
        RequestError: The strength makes no sense, a scale is frozen, or the schedule is unknown.

    Example:
        >>> gamma = nn.Parameter(torch.tensor([0.5, -0.2, 0.0]))
        >>> penalty = BnL1([gamma], strength=0.01)
        >>> gamma.sum().backward()
        >>> penalty.step()
        >>> gamma.grad
        tensor([1.0100, 0.9900, 1.0000])
        >>> round(penalty.value(), 6)
        0.007
    """

    default_strength: ClassVar[float] = 1e-4
    needs_keep: ClassVar[bool] = False

    scales: Sequence[nn.Parameter]
    strength: float
    schedule: str = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        require_strength("bn-l1", self.strength)
        schedules[self.schedule]  # an unknown name shall be refused here, not an epoch later
        frozen = sum(not scale.requires_grad for scale in self.scales)
        if frozen:
            raise RequestError(
                f"{frozen} of {len(self.scales)} batch-norm scales are frozen, bn-l1 would not reach them",
                do="set requires_grad, or protect their groups",
            )

    @classmethod
    def of(
        cls,
        model: nn.Module,
        groups: Groups,
        strength: float,
        keep: Mapping[str, Sequence[int]] | None = None,
    ) -> "BnL1":
        """Make the penalty on the batch-norm scales of all prunable groups.

        Raises:
            RequestError: No prunable channel has a batch-norm scale, one is frozen, or `keep` was passed.
        """
        require_all_channels("bn-l1", keep)
        return cls(penalised_scales(model, groups), strength)

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """The scales: nothing else is penalised."""
        return self.scales

    def _factors(self, progress: float) -> list[Tensor]:
        """The share of the strength that each entry of each scale is pulled with."""
        flat = torch.cat([scale.detach().flatten() for scale in self.scales])
        factors = schedules[self.schedule](flat, progress)
        return list(factors.split([scale.numel() for scale in self.scales]))

    @torch.no_grad()
    def step(self, progress: float = 1.0) -> None:
        """Add `strength * sign(gamma)`, as scheduled, to the unscaled gradient of every scale."""
        for scale, factor in zip(self.scales, self._factors(progress), strict=True):
            if scale.grad is None:
                scale.grad = torch.zeros_like(scale)
            scale.grad.addcmul_(scale.sign(), factor.to(scale.dtype), value=self.strength)

    @torch.no_grad()
    def value(self, progress: float = 1.0) -> float:
        """Compute `sum strength * |gamma|`, as scheduled, in units of the loss."""
        pairs = zip(self.scales, self._factors(progress), strict=True)
        return self.strength * sum((scale.abs() * factor).sum().item() for scale, factor in pairs)

    def recipe(self) -> dict[str, Any]:
        """The kind, the strength, how many scales, the schedule."""
        count = sum(scale.numel() for scale in self.scales)
        told = {"penalty": type(self).__name__, "s": self.strength, "penalised scales": count}
        return told | {"penalty schedule": self.schedule}
