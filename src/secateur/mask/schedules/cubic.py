"""AGP: fast at first, when many weights are redundant, then slower.

    s(t) = s_end + (s_start - s_end) * (1 - t)^3

References:
    Zhu and Gupta, "To Prune, or Not to Prune", 2017, equation 1. https://arxiv.org/abs/1710.01878
"""

from secateur.mask.schedule import schedules


@schedules("cubic")
def cubic(progress: float, start: float, end: float) -> float:
    """Automated gradual pruning.

    Example:
        >>> round(cubic(0.5, 0.0, 0.8), 3)
        0.7
    """
    return end + (start - end) * (1 - progress) ** 3
