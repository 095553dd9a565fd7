"""What the rows of a sweep depend on; the rows themselves are `secateur.write.rows`."""

import hashlib

from torch import nn

from secateur.reports.figures import percent, points
from secateur.train.task import Part
from secateur.write.digests import raw
from secateur.write.rows import fingerprint_of


def fingerprint(model: nn.Module, part: Part) -> dict[str, str]:
    """What the rows of a sweep depend on: the values of a model and the images it is judged by."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(raw(value))
    images = fingerprint_of([fingerprint_of(batch) for batch in part.batches(256)])
    return {"model": digest.hexdigest()[:16], "images": images}


def shown(value: float, dense: float, lower_is_better: bool) -> tuple[str, str]:
    """A figure and its change for people: shares in percent, others as they are.

    Args:
        value: The figure.
        dense: That of the model as it is.
        lower_is_better: Of the figure; such a one is no share.

    Example:
        >>> shown(0.5, 0.75, False), shown(2.5, 1.0, True)
        (('50.00 %', '-25.00 points'), ('2.5', '+1.5'))
    """
    if lower_is_better or not 0 <= min(value, dense) <= max(value, dense) <= 1:
        return f"{value:.4g}", f"{value - dense:+.4g}"
    return percent(value), points(dense, value)
