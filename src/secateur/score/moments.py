"""Moments: running statistics of activations, one for each position of a dim.

Two sets of moments merge into those of the union (Chan, Golub, LeVeque 1979), so the number of batches does
not matter:

    n = n1 + n2,  d = mean2 - mean1,  mean = mean1 + d n2 / n,  m2 = m2_1 + m2_2 + d^2 n1 n2 / n
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of the activations of each channel, over all samples and pixels that were seen.

    Attributes:
        count: How many numbers each channel was seen with.
        mean: Their mean, in the units of the activation.
        m2: The sum of their squared deviations from the mean.
        magnitude: The mean of their absolute values.
        zeros: The share of them that is exactly zero.
    """

    count: int
    mean: Float[Tensor, " channels"]
    m2: Float[Tensor, " channels"]
    magnitude: Float[Tensor, " channels"]
    zeros: Float[Tensor, " channels"]

    @property
    def variance(self) -> Float[Tensor, " channels"]:
        """The population variance."""
        return self.m2 / self.count

    @classmethod
    def of(cls, rows: Float[Tensor, "channels rest"]) -> "Moments":
        """The moments of numbers, one row for each channel.

        Example:
            >>> moments = Moments.of(torch.tensor([[0.0, 2.0], [-1.0, -1.0]]))
            >>> moments.mean.tolist(), moments.variance.tolist(), moments.zeros.tolist()
            ([1.0, -1.0], [1.0, 0.0], [0.5, 0.0])
        """
        rows = rows.double()
        mean = rows.mean(1)
        return cls(
            count=rows.shape[1],
            mean=mean,
            m2=(rows - mean[:, None]).square().sum(1),
            magnitude=rows.abs().mean(1),
            zeros=(rows == 0).double().mean(1),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of the numbers of both."""
        count = self.count + other.count
        share = other.count / count
        step = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + step * share,
            m2=self.m2 + other.m2 + step.square() * (self.count * share),
            magnitude=self.magnitude + (other.magnitude - self.magnitude) * share,
            zeros=self.zeros + (other.zeros - self.zeros) * share,
        )

    def join(self, places: Tensor) -> "Moments":
        """The moments of channels that lie at several positions each.

        Args:
            places: One row for each channel: its positions, shape (channels, places).
        """
        means = self.mean[places]
        mean = means.mean(1)
        spread = (means - mean[:, None]).square().sum(1) * self.count
        return Moments(
            count=self.count * places.shape[1],
            mean=mean,
            m2=self.m2[places].sum(1) + spread,
            magnitude=self.magnitude[places].mean(1),
            zeros=self.zeros[places].mean(1),
        )

    def __getitem__(self, order: Tensor) -> "Moments":
        """The moments of some channels, in an order."""
        return Moments(self.count, self.mean[order], self.m2[order], self.magnitude[order], self.zeros[order])


def is_finite(moments: Moments) -> bool:
    """Whether every number that was seen is finite."""
    return bool(torch.isfinite(moments.mean).all() and torch.isfinite(moments.m2).all())
