"""Feature maps: the mean over all images of what each channel of a layer shows, the most active first."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import RequestError
from secateur.sweep.forks import Forks
from secateur.sweep.places import ChannelPlace
from secateur.train.task import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        from secateur.reports.plots import save_figure

        title = f"{self.layer}: mean feature maps, the most active first"
        return save_figure(self._figure, path, title)

    def _figure(self) -> "Figure":
        from matplotlib.figure import Figure

        side = math.ceil(math.sqrt(len(self.maps)))
        rows = math.ceil(len(self.maps) / side)
        figure = Figure(figsize=(1.0 + 0.95 * side, 0.7 + 1.05 * rows), layout="constrained")
        grid = figure.subplots(rows, side, squeeze=False)
        low, high = float(self.maps.min()), float(self.maps.max())
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, shown, channel in zip(grid.flat, self.maps, self.channels, strict=False):
            image = axes.imshow(shown.cpu().numpy(), vmin=low, vmax=high, cmap="viridis")
            axes.set_title(str(channel), fontsize=7, pad=2)
        figure.colorbar(image, ax=grid, shrink=0.8, label="mean activation")
        return figure


def has_maps(forks: Forks, place: ChannelPlace) -> bool:
    """Whether the channels of a layer are maps of height and width."""
    return len(forks.graph.values[place.activation].shape) == 4 and place.dim == 1


def feature_maps(
    model: nn.Module, layer: str, part: Part, *, count: int = 64, forks: Forks | None = None, **options: Any
) -> FeatureMaps:
    """Take the mean feature maps of a layer over all images.

    Args:
        model: The network; not changed.
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
