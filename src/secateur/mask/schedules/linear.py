"""In a straight line."""

from secateur.mask.schedule import schedules


@schedules("linear")
def linear(progress: float, start: float, end: float) -> float:
    """Mask as much at each step.

    Example:
        >>> linear(0.5, 0.0, 0.8)
        0.4
    """
    return start + (end - start) * progress
