"""How good a network is, as numbers by name, and what collects them batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from secateur.errors import RequestError
from secateur.train.parts import Batch


@dataclass(frozen=True)
class Figures:
    """How good a network is; the first figure decides.

    Attributes:
        values: By name, the deciding one first. Shares run from 0 to 1.
        count: Number of samples.
        lower_is_better: Of the deciding one.
        details: Further results, such as the accuracy of each class; plain data.

    Example:
        >>> Figures({"mean IoU": 0.5}, 10).is_better_than(Figures({"mean IoU": 0.4}, 10))
        True
    """

    values: Mapping[str, float]
    count: int
    lower_is_better: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What decides."""
        return next(iter(self.values))

    @property
    def deciding(self) -> float:
        """Its value."""
        return self.values[self.name]

    def is_better_than(self, other: "Figures") -> bool:
        """Whether this network is the better one; a figure that is no number is worse than any."""
        if not np.isfinite(other.deciding) or not np.isfinite(self.deciding):
            return bool(np.isfinite(self.deciding))
        return (self.deciding < other.deciding) if self.lower_is_better else self.deciding > other.deciding

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())


class Meter(Protocol):
    """Collects what a network says of a part, batch by batch."""

    def add(self, output: Any, batch: Batch) -> None:
        """Take in what the network returned for a batch."""

    def figures(self) -> Figures:
        """How good it was."""


class Scorer(Protocol):
    """What judges sample by sample: a task."""

    lower_is_better: bool

    def scores(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """One value a sample, by name; the first decides."""


class MeanMeter:
    """Averages scores over all samples.

    Args:
        scorer: A task that has `scores`.

    Example:
        >>> import torch
        >>> class Signs:
        ...     lower_is_better = False
        ...     def scores(self, output, batch):
        ...         return {"accuracy": output.sign() == batch[1]}
        >>> meter = MeanMeter(Signs())
        >>> meter.add(torch.tensor([0.5, -2.0]), (None, torch.tensor([1, 1])))
        >>> print(meter.figures())
        accuracy 0.5
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, output: Any, batch: Batch) -> None:
        """Take in a batch."""
        size = 0
        for name, values in self.scorer.scores(output, batch).items():
            size = values.numel()
            self.sums[name] = self.sums.get(name, 0.0) + values.double().sum().item()
        self.count += size

    def figures(self) -> Figures:
        """The means."""
        if not self.count:
            raise RequestError("a part of the data is empty", do="choose other data or another share")
        means = {name: value / self.count for name, value in self.sums.items()}
        return Figures(means, self.count, self.scorer.lower_is_better)
