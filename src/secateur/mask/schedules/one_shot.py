"""All at once."""

from secateur.mask.schedule import schedules


@schedules("one-shot")
def one_shot(progress: float, start: float, end: float) -> float:
    """Mask everything at the first step.

    Example:
        >>> one_shot(0.0, 0.0, 0.8)
        0.8
    """
    return end
