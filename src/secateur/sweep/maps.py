"""Feature maps: the mean over all images of what each channel of a layer shows, the most active first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import RequestError
from secateur.sweep.draw import draw_maps
from secateur.sweep.forks import Forks
from secateur.sweep.places import Place
from secateur.train.classifier import Part


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Mean maps of the most active channels.

    Attributes:
        layer: The layer.
        channels: The channels, the most active first.
        activity: Their mean activations, in the same order, float64.
        maps: Their mean maps, shape (channels, height, width), float64.
    """

    layer: str
    channels: tuple[int, ...]
    activity: Float[Tensor, " channels"]
    maps: Float[Tensor, "channels height width"]

    def __str__(self) -> str:
        shown = ", ".join(
            f"{channel} ({mean:.3g})"
            for channel, mean in zip(self.channels[:8], self.activity.tolist(), strict=False)
        )
        return f"most active channels of {self.layer}: {shown}"

    def plot(self, path: Path | str) -> Path:
        """Draw the maps in a grid, row by row, with a colour bar.

        Args:
            path: A `.png` or `.svg` file; it is complete or not there.

        Raises:
            RequestError: Another kind of file.
            SecateurError: It cannot be written.
        """
        title = f"{self.layer}: mean feature maps, the most active first"
        return draw_maps(path, self.maps, [str(channel) for channel in self.channels], title)


def has_maps(forks: Forks, place: Place) -> bool:
    """Whether the channels of a layer are maps of height and width."""
    return len(forks.graph.values[place.activation].shape) == 4 and place.dim == 1


def feature_maps(
    model: nn.Module, layer: str, part: Part, *, count: int = 64, forks: Forks | None = None, **options: Any
) -> FeatureMaps:
    """Take the mean feature maps of a layer over all images.

    Args:
        model: The classifier; not changed.
        layer: Qualified name of a convolution; its maps are taken after norm and activation.
        part: The images.
        count: How many channels to keep, the most active first.
        forks: The model and the images made ready.
        **options: Further arguments of `Forks`.

    Raises:
        RequestError: No such layer, or it makes no maps.

    Example:
        >>> from secateur.domains.classification import load
        >>> from secateur.zoo import models
        >>> net = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
        >>> feature_maps(net, "feature.0", load("digits").validation, count=3).maps.shape
        torch.Size([3, 8, 8])
    """
    if count < 1:
        raise RequestError(f"count is {count}", do="pass at least 1")
    own = Forks(model, part, **options) if forks is None else forks
    place = own.find(layer)
    if not has_maps(own, place):
        shape = list(own.graph.values[place.activation].shape)
        raise RequestError(
            f"layer {layer} makes a tensor of shape {shape}, not maps", do="choose a 2-d convolution"
        )
    total = sum(batch.double().sum(0) for batch in own.values(place.activation))
    assert isinstance(total, Tensor), "a part is never empty"
    maps = (total / len(part)).cpu()
    activity = maps.mean((1, 2))
    order = activity.argsort(descending=True, stable=True)[:count]
    return FeatureMaps(layer, tuple(order.tolist()), activity[order], maps[order])
