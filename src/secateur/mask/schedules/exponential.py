"""The same share of what is left at each step, as iterative magnitude pruning does.

    1 - s(t) = (1 - s_start) * ((1 - s_end) / (1 - s_start))^t

References:
    Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, section 1.
    https://arxiv.org/abs/1803.03635
"""

from secateur.mask.schedule import schedules


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
