"""What an epoch adds up: losses and what a task watches, weighted by the samples they are means of."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Sums:
    """Sums over samples by kind and name, on the device of the losses.

    Example:
        >>> sums = Sums()
        >>> for mean, count in ((1.0, 3), (5.0, 1)):
        ...     sums.add("loss", {"error": torch.tensor(mean)}, count)
        ...     sums.count += count
        >>> sums.means("loss"), sums.lowered()
        ({'error': 2.0}, 8.0)
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.count = 0

    def add(self, kind: str, values: Mapping[str, Tensor], count: int) -> None:
        """Add the means of some samples."""
        for name, value in values.items():
            before = self.sums.get((kind, name))
            more = value.detach().float() * count
            self.sums[kind, name] = more if before is None else before + more

    def lowered(self) -> float:
        """The sum of all that is to be lowered; no number if any of it is none."""
        lowered = [value for (kind, _), value in self.sums.items() if kind != "watched"]
        return float(torch.stack(lowered).sum())

    def means(self, kind: str) -> dict[str, float]:
        """The means over all samples, by name."""
        return {name: float(value) / self.count for (own, name), value in self.sums.items() if own == kind}
