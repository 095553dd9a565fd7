"""How sparse training went, and how far it can go: the two figures by which `--s` is steered.

Under SGD with momentum m and step sizes lr_t, a constant pull s moves a scale by

    shift = s * sum_t lr_t / (1 - m)

if nothing resists. A scale that starts at gamma_0 cannot reach zero by the penalty alone unless the *reach*
shift / gamma_0 is above 1, and because the task resists it takes several times that. The reach is what short
and long runs have in common: the paper's 1e-4 over 160 epochs of CIFAR-10 is 13, 3e-3 over 3 epochs of
Fashion-MNIST 8, whereas 1e-4 over those 3 epochs is 0.3 and does nothing. Weight decay w also pulls, in
proportion to gamma (w * gamma: at the paper's settings 5e-5 at the start, half of s); `reachable_shift`
counts it.

References:
    Liu et al., ICCV 2017, sections 3 and 4.2 (s = 1e-4, gamma_0 = 0.5). https://arxiv.org/abs/1708.06519
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NEAR_ZERO = 1e-2
"""A scale counts as near zero below this: 2 % of network slimming's initial 0.5.

Such a channel's normalised output has a standard deviation below 0.01 where its neighbours have one of 0.1 to
1. After sparse training the scales lie in two heaps: those that arrived tremble around zero with an amplitude
of about lr * s, those that the task holds lie above 0.03. The valley between them is flat (Fashion-MNIST,
s = 3e-3: 66 % below 1e-3, 70 % below 1e-2, 72 % below 3e-2), so the share hardly depends on the threshold. It
is absolute, because the global ranking that prunes the scales compares absolute values across layers.
"""

GAMMA_EDGES = tuple(edge / 40 for edge in range(41))
"""Bin edges of the histogram of |gamma|, in steps of 0.025; the last bin also takes everything above 1."""

# Reach -> share of scales near zero at the end, measured: see `Outlook.expected_shares`.
_FASHION_MNIST = ((1.0, 0.0), (2.7, 0.28), (8.0, 0.70))
_DIGITS = ((0.7, 0.0), (1.4, 0.32), (2.7, 0.65), (4.5, 0.76), (6.8, 0.85))


def near_zero_share(scales: Iterable[Tensor], threshold: float = NEAR_ZERO) -> float:
    """Compute which share of all scales is smaller than a threshold; 0 when there are none.

    Args:
        scales: Batch-norm weights, one entry per channel.
        threshold: Magnitude below which a scale counts as near zero.

    Returns:
        A share from 0 to 1: about the pruning ratio that costs almost no accuracy.

    Example:
        >>> near_zero_share([torch.tensor([0.001, -0.002]), torch.tensor([0.5, -0.5])])
        0.5
    """
    magnitudes = _magnitudes(scales)
    return (magnitudes < threshold).double().mean().item() if len(magnitudes) else 0.0


def batch_norm_scales(model: nn.Module) -> list[nn.Parameter]:
    """List the scales of all batch norms of a model that have one, prunable or not.

    Args:
        model: Any model.

    Returns:
        The weights in the order of the modules; a shared one once.

    Example:
        >>> len(batch_norm_scales(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm1d(2))))
        2
    """
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    scales = (module.weight for module in model.modules() if isinstance(module, norms))
    return list({id(scale): scale for scale in scales if scale is not None}.values())


def gamma_histogram(scales: Iterable[Tensor]) -> tuple[int, ...]:
    """Count the magnitudes of all scales in the 40 bins between `GAMMA_EDGES`.

    Args:
        scales: Batch-norm weights, one entry per channel.

    Returns:
        One count per bin; together as many as there are scales.

    Example:
        >>> counts = gamma_histogram([torch.tensor([0.001, -0.51, 7.0])])
        >>> counts[0], counts[20], counts[39], sum(counts)
        (1, 1, 1, 3)
    """
    edges = torch.tensor(GAMMA_EDGES, dtype=torch.float64)
    magnitudes = _magnitudes(scales).nan_to_num(nan=math.inf)
    bins = torch.bucketize(magnitudes, edges, right=True).clamp(max=len(GAMMA_EDGES) - 1) - 1
    return tuple(torch.bincount(bins, minlength=len(GAMMA_EDGES) - 1).tolist())


def reachable_shift(
    learning_rates: Iterable[float],
    strength: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    initial: float = 0.5,
) -> float:
    """Compute how far penalty and weight decay alone can move a batch-norm scale towards zero.

    Without weight decay this is `strength * sum(learning_rates) / (1 - momentum)`; weight decay adds
    `weight_decay * gamma` to the pull for as long as gamma, which shrinks, is above zero.

    Args:
        learning_rates: The learning rate of every optimizer step.
        strength: The penalty's `s`.
        momentum: SGD's momentum, below 1.
        weight_decay: SGD's weight decay, as far as it applies to batch-norm scales.
        initial: The scale at the start.

    Returns:
        A distance in units of gamma. It exceeds `initial` when the penalty would carry an unneeded scale to
        zero and has travel left.

    Example:
        >>> round(reachable_shift([0.1] * 1000, 1e-4), 6)
        0.1
        >>> round(reachable_shift([0.1] * 1000, 1e-3, weight_decay=1e-4), 2)
        1.01
    """
    gamma, shift = initial, 0.0
    for rate in learning_rates:
        move = rate / (1 - momentum) * (strength + weight_decay * max(gamma, 0.0))
        gamma -= move
        shift += move
    return shift


@dataclass(frozen=True)
class Outlook:
    """What a schedule and a strength promise, before a single step is made.

    Args:
        strength: The penalty's `s`.
        shift: How far the penalty can move a scale, in units of gamma.
        initial: Where the scales start.
    """

    strength: float
    shift: float
    initial: float = 0.5

    @property
    def reach(self) -> float:
        """How many times the penalty could carry a scale from its start to zero."""
        return self.shift / self.initial

    @property
    def expected_shares(self) -> tuple[float, float]:
        """The share of scales that will come near zero, from 0 to 1: on a demanding task, and on an easy one.

        A rule of thumb, interpolated between runs of VGG-11 at a quarter of its width: on Fashion-MNIST (3
        epochs of 54,000 images, batch 64, lr 0.1 in steps; s = 1e-3 left 28 %, 3e-3 70 %) and on digits (20
        to 30 epochs of 1,079 images, batch 32, lr 0.02 to 0.05 along a cosine). Wider networks have more to
        spare.
        """
        demanding, easy = (_interpolate(self.reach, points) for points in (_FASHION_MNIST, _DIGITS))
        return demanding, easy

    def strength_for(self, reach: float = 8.0) -> float:
        """The strength that would give a reach on the same schedule (weight decay aside)."""
        return self.strength * reach / self.reach if self.reach > 0 else math.inf

    def warning(self, ratio: float) -> str | None:
        """Say why pruning `ratio` of the channels lies beyond what this run will reach; None if it may not.

        Only a warning before the fact: after training, `near_zero_share` knows.

        Args:
            ratio: The share of channels that is to be pruned, from 0 to 1.

        Returns:
            A message of two lines, or None.

        Example:
            >>> print(Outlook(strength=1e-4, shift=0.15).warning(0.7))
            pruning 70 % lies beyond s=0.0001: 0 to 0 % of the batch-norm scales will come near zero
              the penalty can move a scale by 0.15, it starts at 0.5; try s=0.003 or a longer schedule
        """
        low, high = self.expected_shares
        # Beyond the last measurement the task decides, not s: nothing to warn of.
        if high >= ratio or self.reach >= _DIGITS[-1][0]:
            return None
        return (
            f"pruning {ratio * 100:.0f} % lies beyond s={self.strength:g}: {low * 100:.0f} to "
            f"{high * 100:.0f} % of the batch-norm scales will come near zero\n"
            f"  the penalty can move a scale by {self.shift:.2g}, it starts at {self.initial:g}; "
            f"try s={self.strength_for():.1g} or a longer schedule"
        )

    def __str__(self) -> str:
        low, high = self.expected_shares
        return (
            f"s={self.strength:g} can move a batch-norm scale by {self.shift:.2g}, "
            f"{self.reach:.1f} times the initial {self.initial:g}: "
            f"{low * 100:.0f} to {high * 100:.0f} % will come near zero (rule of thumb)"
        )


def _magnitudes(scales: Iterable[Tensor]) -> Tensor:
    parts = [scale.detach().abs().double().flatten().cpu() for scale in scales]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _interpolate(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Interpolate linearly between points, constant outside of them."""
    position = bisect.bisect([point[0] for point in points], x)
    if position in (0, len(points)):
        return points[min(position, len(points) - 1)][1]
    (left, low), (right, high) = points[position - 1], points[position]
    return low + (high - low) * (x - left) / (right - left)
