"""One-cycle: slowly at first, fast in the middle, slowly at the end.

    s(t) = s_start + (s_end - s_start) * (1 + exp(-a + b)) / (1 + exp(-a t + b)),   a = 14, b = 5

At t = 0 this is 0.7 % of the way, not quite the start.

References:
    Hubens et al., "One-Cycle Pruning: Pruning ConvNets Under a Tight Training Budget", 2021, equation 2.
    https://arxiv.org/abs/2107.02086
"""

from math import exp

from secateur.mask.schedule import schedules

_A, _B = 14, 5


@schedules("one-cycle")
def one_cycle(progress: float, start: float, end: float) -> float:
    """A logistic curve that ends exactly at the end.

    Example:
        >>> round(one_cycle(0.5, 0.0, 0.8), 3), one_cycle(1.0, 0.0, 0.8)
        (0.705, 0.8)
    """
    return start + (end - start) * (1 + exp(-_A + _B)) / (1 + exp(-_A * progress + _B))
