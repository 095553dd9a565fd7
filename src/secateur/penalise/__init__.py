"""Regularisers for sparse training: they push what the task does not need to zero.

A penalty acts on gradients, between the backward pass and the optimizer's step, so that it works with every
loss and every optimizer. It acts on prunable groups only: sparsity where nothing can be cut costs accuracy
and gains nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from secateur.coupling import Groups
from secateur.registry import Registry

__all__ = ["Penalty", "PenaltyKind", "penalties"]


class Penalty(Protocol):
    """What the training loop asks of a regulariser."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """The parameters that are penalised."""

    @property
    def scales(self) -> Sequence[nn.Parameter]:
        """The batch-norm scales of the penalised channels, one entry per channel: what a run watches."""

    @property
    def strength(self) -> float:
        """The factor before the penalty: `s` or lambda in the papers."""

    def step(self, progress: float = 1.0) -> None:
        """Add the penalty's subgradient to the unscaled `.grad` of every parameter.

        Args:
            progress: Share of the run's steps that are done, from 0 to 1; for penalties that grow.
        """

    def value(self, progress: float = 1.0) -> float:
        """Compute what the penalty adds to the loss."""

    def recipe(self) -> dict[str, Any]:
        """Name what decides its effect: a run goes on only with the same."""


class PenaltyKind(Protocol):
    """A registered penalty: what makes one for a model."""

    default_strength: float
    """The strength where none is asked for."""

    needs_keep: bool
    """Whether it must be told which channels will stay."""

    def of(
        self,
        model: nn.Module,
        groups: Groups,
        strength: float,
        keep: Mapping[str, Sequence[int]] | None = None,
    ) -> Penalty:
        """Make the penalty on the prunable groups of a model.

        Args:
            model: The model that will be trained.
            groups: Its groups.
            strength: The factor before the penalty.
            keep: The channels that will stay, by group, as in a plan; for penalties that act on the others.

        Raises:
            RequestError: There is nothing to act on, or `keep` is missing or not wanted.
        """


penalties: Registry[PenaltyKind] = Registry("penalty", "secateur.penalise")
