"""Schedules: how sparse a model is at each moment of its training.

With progress t from 0 to 1 and the sparsity s going from s_start to s_end:

    one-shot            s(t) = s_end
    linear              s(t) = s_start + (s_end - s_start) t
    cubic (AGP)         s(t) = s_end + (s_start - s_end) (1 - t)^3
    exponential         1 - s(t) = (1 - s_start) ((1 - s_end) / (1 - s_start))^t
    one-cycle           s(t) = s_start + (s_end - s_start) (1 + e^(b - a)) / (1 + e^(b - a t)),  a = 14, b = 5
    dense-sparse-dense  s(t) = s_end in the middle third, s_start before and after

One-cycle begins at 0.7 % of the way. After the sparse third of dense-sparse-dense, which regularises, the
masked weights start again from zero.

References:
    cubic: Zhu and Gupta, "To Prune, or Not to Prune", 2017, equation 1. https://arxiv.org/abs/1710.01878
    exponential: Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, section 1.
    https://arxiv.org/abs/1803.03635
    one-cycle: Hubens et al., "One-Cycle Pruning: Pruning ConvNets Under a Tight Training Budget", 2021,
    equation 2.
    https://arxiv.org/abs/2107.02086
    dense-sparse-dense: Han et al., "DSD: Dense-Sparse-Dense Training for Deep Neural Networks", ICLR 2017,
    section 3. https://arxiv.org/abs/1607.04381
"""

from collections.abc import Callable
from math import exp
from typing import TypeAlias

from secateur.registry import Registry

Schedule: TypeAlias = Callable[[float, float, float], float]
"""From progress in [0, 1], the sparsity at the start and the one to reach, to the sparsity now."""

schedules: Registry[Schedule] = Registry("schedule")


@schedules("one-shot")
def one_shot(progress: float, start: float, end: float) -> float:
    """Mask everything at the first step.

    Example:
        >>> one_shot(0.0, 0.0, 0.8)
        0.8
    """
    return end


@schedules("linear")
def linear(progress: float, start: float, end: float) -> float:
    """Mask as much at each step.

    Example:
        >>> linear(0.5, 0.0, 0.8)
        0.4
    """
    return start + (end - start) * progress


@schedules("cubic")
def cubic(progress: float, start: float, end: float) -> float:
    """Automated gradual pruning.

    Example:
        >>> round(cubic(0.5, 0.0, 0.8), 3)
        0.7
    """
    return end + (start - end) * (1 - progress) ** 3


@schedules("exponential")
def exponential(progress: float, start: float, end: float) -> float:
    """Let the density decay exponentially.

    Example:
        >>> round(exponential(0.5, 0.0, 0.75), 3)
        0.5
    """
    if start >= 1:
        return end
    return float(1 - (1 - start) * ((1 - end) / (1 - start)) ** progress)


@schedules("one-cycle")
def one_cycle(progress: float, start: float, end: float) -> float:
    """A logistic curve that ends exactly at the end.

    Example:
        >>> round(one_cycle(0.5, 0.0, 0.8), 3), one_cycle(1.0, 0.0, 0.8)
        (0.705, 0.8)
    """
    return start + (end - start) * (1 + exp(5 - 14)) / (1 + exp(5 - 14 * progress))


@schedules("dense-sparse-dense")
def dense_sparse_dense(progress: float, start: float, end: float) -> float:
    """Sparse in the middle third only.

    Example:
        >>> [dense_sparse_dense(at, 0.0, 0.3) for at in (0.2, 0.5, 0.8)]
        [0.0, 0.3, 0.0]
    """
    return end if 1 / 3 <= progress < 2 / 3 else start


step_schedules: Registry[Schedule] = Registry("schedule")
"""The formulas that fit cutting in steps, by the words for them."""
for _word, _formula in (("linear", linear), ("geometric", exponential), ("agp", cubic)):
    step_schedules.add(_word, _formula)
