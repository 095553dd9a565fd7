"""`[route]`: earlier layers side by side along the channels, each cut to one of `groups` equal parts.

The part is taken by a reshape to (groups, channels / groups): cuts then keep all parts equal, which is all
that the format can say.
"""

import torch
from torch import Tensor, nn

from secateur.domains.darknet.layers import Layer, SectionPlace, Shape, kinds

__all__ = ["Route"]


class Route(nn.Module):
    """One part of each input, concatenated."""

    def __init__(self, groups: int, group: int) -> None:
        super().__init__()
        self.groups = groups
        self.group = group

    def forward(self, *sources: Tensor) -> Tensor:
        """Take the parts and concatenate them."""
        if self.groups > 1:
            sources = tuple(source.unflatten(1, (self.groups, -1))[:, self.group] for source in sources)
        return torch.cat(sources, 1) if len(sources) > 1 else sources[0]


@kinds("route")
def route(place: SectionPlace) -> Layer:
    """Build `[route]`."""
    place.require(stream="0")
    sources = place.layers("layers")
    groups, group = place.integer("groups", 1, least=1), place.integer("group_id", 0)
    if group >= groups:
        do = f"write a group_id from 0 to {groups - 1}"
        raise place.error(f"group_id={group} is not below groups={groups}", "group_id", do=do)
    shapes = [place.shapes[source] for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        if (shape.height, shape.width) != (shapes[0].height, shapes[0].width):
            raise place.error(
                f"layer {sources[0]} is {shapes[0]}, layer {source} is {shape}: rows or columns differ",
                "layers",
                do="name layers of the same resolution, or make the input's sides a multiple of the stride",
            )
        if shape.channels % groups:
            do = "write a number of groups that divides the channels"
            what = f"groups={groups} does not divide the {shape.channels} channels of layer {source}"
            raise place.error(what, "groups", do=do)
    channels = sum(shape.channels // groups for shape in shapes)
    return Layer(
        Route(groups, group), Shape(channels, shapes[0].height, shapes[0].width, shapes[0].stride), sources
    )
