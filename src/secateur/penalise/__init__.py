"""Regularisers for sparse training: they push the scale of channels that the task does not need to zero.

A penalty acts on gradients, between the backward pass and the optimizer's step, so that it works with every
loss and every optimizer. Which scales it acts on is the caller's choice: those of prunable groups only.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

from secateur.registry import Registry

__all__ = ["Penalty", "penalties"]


class Penalty(Protocol):
    """What the training loop asks of a regulariser."""

    @property
    def scales(self) -> Sequence[nn.Parameter]:
        """The parameters that are penalised, one entry per channel."""

    @property
    def strength(self) -> float:
        """The factor before the penalty: `s` or lambda in the papers."""

    def step(self) -> None:
        """Add the penalty's subgradient to the unscaled `.grad` of every scale."""

    def value(self) -> float:
        """Compute what the penalty adds to the loss."""


penalties: Registry[Callable[..., Penalty]] = Registry("penalty", "secateur.penalise")
