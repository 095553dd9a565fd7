"""Statistics: what data says of the groups of a model, gathered for all groups at once, when first asked.

A criterion asks through a group's view. The first question starts one pass over the data, which answers it
for all groups: moments of activations, ranks of maps, gradients of batches or of single samples.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.coupling import Group, Groups
from secateur.errors import CaptureError
from secateur.score.consumers import Consumers
from secateur.score.elimination import Consumer
from secateur.score.gates import Gates
from secateur.score.gradients import Differentiator, SampleSums
from secateur.score.loss import Loss
from secateur.score.observations import Observations
from secateur.score.values import Reading, ReadValue

PROBES = 16
"""Random directions by which curvature is estimated; as many channels or fewer are done one by one."""


class Statistics:
    """The data beside a model, and what it says.

    Args:
        model: The recorded model, with values; not changed.
        groups: Its groups; those that may be cut are watched.
        data: Batches, read once for each kind of statistic.
        loss: For gradients; None for the default.
        seed: For estimates that draw.
        asked: The groups that are asked for; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        data: Samples,
        loss: Loss | None = None,
        seed: int = 0,
        asked: Collection[str] | None = None,
    ) -> None:
        self.model = model
        self.groups = groups
        self.data = data
        self.loss = loss
        self.seed = seed
        self.asked = asked

    def of(self, group: Group) -> "GroupStatistics":
        """What the data says of one group."""
        return GroupStatistics(self, group)

    @cached_property
    def values(self) -> Mapping[str, tuple[ReadValue, ...]]:
        """Where the activations of each group are."""
        reading = Reading(self.groups)
        return {group.name: reading.of(group) for group in self.groups.prunable}

    @cached_property
    def observations(self) -> Observations:
        """What is seen of the activations of all groups."""
        values = [value for held in self.values.values() for value in held]
        return Observations(self.model, self.groups.graph, values, self.data)

    @cached_property
    def consumers(self) -> Consumers:
        """What reads each group."""
        return Consumers(self.model, self.groups, self.data, self.asked)

    @cached_property
    def differentiator(self) -> Differentiator:
        """The model as it is differentiated."""
        return Differentiator(self.model, Gates.of(self.model, self.groups.prunable), self.loss)

    @cached_property
    def first_order(self) -> Mapping[str, Tensor]:
        """Gradients of whole batches."""
        return self.differentiator.first_order(self.data)

    @cached_property
    def per_sample(self) -> SampleSums:
        """Gradients of single samples."""
        return self.differentiator.per_sample(self.data)

    @cached_property
    def diagonals(self) -> Mapping[str, Tensor]:
        """Gradients of single samples, entry by entry."""
        return self.differentiator.per_sample(self.data, with_diagonal=True).diagonal

    @cached_property
    def grams(self) -> Mapping[str, Tensor]:
        """Gradients of single samples, with all pairs of channels of a group."""
        return self.differentiator.per_sample(self.data, with_gram=True).gram

    @cached_property
    def curvatures(self) -> Mapping[str, Tensor]:
        """Second derivatives."""
        return self.differentiator.curvature(self.data, PROBES, self.seed)


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """What the data says of one group; see `score.view.Observed`.

    Attributes:
        statistics: Of the whole model.
        group: The group.
    """

    statistics: Statistics
    group: Group

    def evidence(self, kind: str) -> Sequence[Any]:
        """What one kind of evidence says of each activation."""
        return self.statistics.observations.of(kind, self.statistics.values[self.group.name])

    @cached_property
    def consumers(self) -> Sequence[Consumer]:
        """The layers that read the group."""
        return self.statistics.consumers.of(self.group)

    @property
    def gradients(self) -> "GroupStatistics":
        """Gradients of the loss by the group's gates."""
        return self

    @property
    def mean(self) -> Tensor:
        """dL/dm_c, the mean over all samples."""
        return self._of(self.statistics.first_order)

    @property
    def square(self) -> Tensor:
        """(dL/dm_c)^2 of each sample, the mean."""
        return self._of(self.statistics.per_sample.square)

    @property
    def diagonal(self) -> Tensor:
        """Squares of all entries of a channel, summed."""
        return self._of(self.statistics.diagonals)

    @property
    def gram(self) -> Tensor:
        """Products of the derivatives of all pairs of channels."""
        return self._of(self.statistics.grams)

    @property
    def curvature(self) -> Tensor:
        """The second derivative along each channel's weights."""
        return self._of(self.statistics.curvatures)

    def _of(self, found: Mapping[str, Tensor]) -> Tensor:
        if self.group.name not in found:
            raise CaptureError(
                f"group {self.group.name} has no parameter that can be differentiated",
                do="choose a criterion without gradients",
            )
        return found[self.group.name]
