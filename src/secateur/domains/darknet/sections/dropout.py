"""`[dropout]`: channels' values are dropped in training."""

from torch import nn

from secateur.domains.darknet.layers import Layer, SectionPlace, kinds


@kinds("dropout")
def dropout(place: SectionPlace) -> Layer:
    """Build `[dropout]`."""
    place.require(dropblock="0", dropblock_size_rel="0", dropblock_size_abs="0")
    share = place.number("probability", 0.5)
    if not 0 <= share <= 1:
        raise place.error(f"probability={share} is no share", "probability", do="write a share from 0 to 1")
    return Layer(nn.Dropout(share), place.before, (place.index - 1,))
