"""The moments of activations over all data, after norm and activation."""

from torch import Tensor

from secateur.capture.inputs import as_real
from secateur.score.moments import Moments, is_finite
from secateur.score.observations import Evidence, evidence
from secateur.score.values import ReadValue


class Activations(Evidence[Moments]):
    """Moments of each channel."""

    reads = "an activation that a layer reads"

    def look(self, tensor: Tensor, value: ReadValue) -> Moments | None:
        """Of each position of a dim."""
        moments = Moments.of(as_real(tensor).movedim(value.dim, 0).flatten(1))
        return moments if is_finite(moments) else None

    def add(self, one: Moments, two: Moments) -> Moments:
        """Of both batches."""
        return one + two

    def show(self, found: Moments, value: ReadValue) -> Moments:
        """Of the group's channels."""
        return found.join(value.places.to(found.mean.device))


evidence.add("activations", Activations())
