"""`[maxpool]`: the largest value of each window, with Darknet's own padding.

    output side = (side + padding - size) // stride + 1        padding = size - 1 unless given

Half of the padding, rounded down, is before the first row and column, the rest behind the last; padding never
wins. So a window of 2 with a stride of 1 (yolov3-tiny) pads one row behind and keeps the size.

Source: `forward_maxpool_layer` of Darknet's `src/maxpool_layer.c`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.domains.darknet.layers import Layer, SectionPlace, Shape, kinds

__all__ = ["Maxpool"]


class Maxpool(nn.Module):
    """Max-pooling that may pad one more behind than before."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size = size
        self.stride = stride
        self.padding = padding

    def forward(self, maps: Tensor) -> Tensor:
        """Pad what a window can reach, then pool."""
        before, behind = self.padding // 2, self.padding - self.padding // 2
        extra = [self._extra(maps.shape[axis], before, behind) for axis in (3, 2)]
        if any(extra):
            maps = F.pad(maps, (0, extra[0], 0, extra[1]), value=float("-inf"))
        return F.max_pool2d(maps, self.size, self.stride, before)

    def _extra(self, side: int, before: int, behind: int) -> int:
        """Rows that the last window needs beyond the even padding."""
        windows = (side + self.padding - self.size) // self.stride
        return max(0, windows * self.stride + self.size - side - 2 * before) if behind > before else 0


@kinds("maxpool")
def maxpool(place: SectionPlace) -> Layer:
    """Build `[maxpool]`."""
    stride = place.integer("stride", 1, least=1)
    size = place.integer("size", stride, least=1)
    padding = place.integer("padding", size - 1)
    place.require(stride_x=str(stride), stride_y=str(stride), antialiasing="0", maxpool_depth="0")
    if padding > size:
        raise place.error(f"padding={padding} is above size={size}", "padding", do="write less padding")
    before = place.before
    height, width = ((side + padding - size) // stride + 1 for side in (before.height, before.width))
    if min(height, width) < 1:
        do = "make the input larger or the window smaller"
        raise place.error(f"size={size} on an input of {before} leaves nothing", "size", do=do)
    shape = Shape(before.channels, height, width, before.stride * stride)
    return Layer(Maxpool(size, stride, padding), shape, (place.index - 1,))
