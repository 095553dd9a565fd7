"""Statistics: what data says of the groups of a model, gathered for all groups at once, when first asked.

A criterion asks through a group's view. The first question starts one pass over the data, which answers it
for all groups: moments of activations, ranks of maps, gradients of batches or of single samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.coupling import Group, Groups
from secateur.errors import CaptureError
from secateur.score.activations import Place, gather_moments, gather_ranks, joined
from secateur.score.gates import Gates
from secateur.score.gradients import Differentiator, SampleSums
from secateur.score.loss import Loss
from secateur.score.moments import Moments
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
    """

    def __init__(
        self, model: nn.Module, groups: Groups, data: Samples, loss: Loss | None = None, seed: int = 0
    ) -> None:
        self.model = model
        self.groups = groups
        self.data = data
        self.loss = loss
        self.seed = seed

    def of(self, group: Group) -> "GroupStatistics":
        """What the data says of one group."""
        return GroupStatistics(self, group)

    @cached_property
    def values(self) -> Mapping[str, tuple[ReadValue, ...]]:
        """Where the activations of each group are."""
        reading = Reading(self.groups)
        return {group.name: reading.of(group) for group in self.groups.prunable}

    @cached_property
    def moments(self) -> Mapping[Place, Moments]:
        """Moments of every watched value."""
        values = [value for held in self.values.values() for value in held]
        return gather_moments(self.model, self.groups.graph, values, self.data)

    @cached_property
    def ranks(self) -> Mapping[Place, tuple[Tensor, int]]:
        """Sums of ranks of every watched map, with the number of samples."""
        values = [value for held in self.values.values() for value in held]
        return gather_ranks(self.model, self.groups.graph, values, self.data)

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

    @property
    def activations(self) -> Sequence[Moments]:
        """The moments of each activation."""
        return [joined(self.statistics.moments, value) for value in self._values]

    @property
    def ranks(self) -> Sequence[Tensor]:
        """The mean rank of each channel's maps."""
        found: list[Tensor] = []
        for value in self._values:
            if value.has_maps:
                ranks, count = self.statistics.ranks[value.value, value.dim]
                found.append(ranks[value.places.to(ranks.device)].mean(1) / count)
        return found

    @property
    def _values(self) -> tuple[ReadValue, ...]:
        return self.statistics.values[self.group.name]

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
        return self._of(self.statistics.per_sample.diagonal)

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
