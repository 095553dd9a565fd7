"""When and where a pull on batch-norm scales is strong: factors of the strength.

    constant       1, always
    global-decay   1; from half of the run on 1 / 100, so that what is left can recover
    local-decay    1 for the lowest 85 % of all pulled scales, 1 / 100 for the top 15 %, which will be kept

References:
    tanluren/yolov3-channel-and-layer-pruning, README (the decays).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.registry import Registry

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
