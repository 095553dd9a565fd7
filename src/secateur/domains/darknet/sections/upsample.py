"""`[upsample]`: every row and column repeated `stride` times."""

from torch import nn

from secateur.domains.darknet.layers import Layer, SectionPlace, Shape, kinds


@kinds("upsample")
def upsample(place: SectionPlace) -> Layer:
    """Build `[upsample]`."""
    place.require(scale="1")
    stride, before = place.integer("stride", 2, least=1), place.before
    shape = Shape(before.channels, before.height * stride, before.width * stride, before.stride / stride)
    return Layer(nn.Upsample(scale_factor=stride, mode="nearest"), shape, (place.index - 1,))
