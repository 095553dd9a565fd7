"""`[convolutional]`: a convolution, its batch normalisation or bias, its activation.

output = activation((conv(input) - mean) / sqrt(variance + eps) * scale + bias)       batch_normalize=1
output = activation(conv(input) + bias)                                               otherwise
"""

from fractions import Fraction

from jaxtyping import Float
from torch import Tensor, nn

from secateur.domains.darknet.activations import activation
from secateur.domains.darknet.layers import MOST_PARAMETERS, Layer, SectionPlace, Shape, kinds

__all__ = ["Convolutional"]


class Convolutional(nn.Module):
    """A convolution with what belongs to it.

    Attributes:
        conv: The convolution; it has a bias only where nothing normalises.
        norm: Batch normalisation; None without.
        act: The activation.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = act

    def forward(self, maps: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        """Convolve, normalise, activate."""
        maps = self.conv(maps)
        if self.norm is not None:
            maps = self.norm(maps)
        result: Tensor = self.act(maps)
        return result


@kinds("convolutional")
def convolutional(place: SectionPlace) -> Layer:
    """Build `[convolutional]`."""
    place.require(
        binary="0",
        xnor="0",
        flipped="0",
        antialiasing="0",
        share_index="-1000000000",
        assisted_excitation="0",
        deform="0",
        dontload="0",
        dontloadscales="0",
    )
    before = place.before
    filters, size = place.integer("filters", 1, least=1), place.integer("size", 1, least=1)
    stride, groups = place.integer("stride", 1, least=1), place.integer("groups", 1, least=1)
    place.require(stride_x=str(stride), stride_y=str(stride), dilation="1")
    padding = size // 2 if place.integer("pad", 0) else place.integer("padding", 0)
    for name, channels in (("input channels", before.channels), ("filters", filters)):
        if channels % groups:
            do = "write a number of groups that divides both channel counts"
            raise place.error(f"groups={groups} does not divide {channels} {name}", "groups", do=do)
    normalised = place.integer("batch_normalize", 0) != 0
    height, width = ((side + 2 * padding - size) // stride + 1 for side in (before.height, before.width))
    if min(height, width) < 1:
        do = "make the input larger or the kernel smaller"
        raise place.error(f"size={size} on an input of {before} leaves nothing", "size", do=do)
    params = before.channels // groups * filters * size * size
    if params > MOST_PARAMETERS:
        what = f"the kernel has {params:.6g} parameters, allowed are {MOST_PARAMETERS:,}"
        raise place.error(what, "filters", do="write fewer filters, or a smaller size")
    conv = nn.Conv2d(before.channels, filters, size, stride, padding, groups=groups, bias=not normalised)
    norm = nn.BatchNorm2d(filters, eps=place.eps) if normalised else None
    shape = Shape(filters, height, width, before.stride * Fraction(stride))
    return Layer(Convolutional(conv, norm, activation(place, "logistic")), shape, (place.index - 1,))
