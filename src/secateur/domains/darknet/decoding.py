"""Raw maps to boxes.

For the anchor (aw, ah) in the cell (column, row), with the map's x, y, w, h, objectness o and classes c:

    centre = ((sigmoid(x) s - (s - 1) / 2 + column) / columns * image width, likewise y)    s = scale_x_y
    size   = (exp(w) aw, exp(h) ah)                                  anchors are pixels of the network's input
    score  = sigmoid(o) sigmoid(c)

Source: `get_yolo_box` of Darknet's `src/yolo_layer.c`; Redmon and Farhadi, "YOLOv3: An Incremental
Improvement", 2018, section 2.1; `scale_x_y`: Bochkovskiy et al., "YOLOv4", 2020, section 3.4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.domains.darknet.heads import Head
from secateur.errors import RequestError

__all__ = ["Decoded", "decode", "decode_boxes", "unfold"]


class Decoded(NamedTuple):
    """Boxes of all heads: head by head, in each by anchor, row and column.

    Attributes:
        boxes: Left, top, right, bottom in pixels of the network's input, not clipped: (batch, boxes, 4).
        scores: Objectness times the probability of each class: (batch, boxes, classes).
        objectness: From 0 to 1: (batch, boxes).
    """

    boxes: Tensor
    scores: Tensor
    objectness: Tensor


def decode(maps: Sequence[Tensor], heads: Sequence[Head], size: tuple[int, int]) -> Decoded:
    """Decode what a network returns.

    Args:
        maps: The raw maps, one for each head.
        heads: The network's `heads`.
        size: Height and width of the images in pixels.

    Returns:
        Every box of every cell; nothing is dropped.

    Raises:
        RequestError: The maps are not those of these heads.

    Example:
        >>> from secateur.domains.darknet import Darknet
        >>> model = Darknet("yolov3-tiny")
        >>> found = decode(model(torch.zeros(2, 3, 96, 64)), model.heads, (96, 64))
        >>> found.boxes.shape, found.scores.shape
        (torch.Size([2, 90, 4]), torch.Size([2, 90, 80]))
    """
    if len(maps) != len(heads):
        what = f"{len(maps)} maps, {len(heads)} heads"
        raise RequestError(what, do="pass what the network returned, and its heads")
    boxes, scores, objectness = [], [], []
    for raw, head in zip(maps, heads, strict=True):
        cells = unfold(raw, head)
        boxes.append(decode_boxes(cells, head, size).flatten(1, 3))
        certain = cells[..., 4].sigmoid()
        scores.append((certain[..., None] * cells[..., 5:].sigmoid()).flatten(1, 3))
        objectness.append(certain.flatten(1))
    return Decoded(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(objectness, 1))


def unfold(raw: Float[Tensor, "batch channels rows columns"], head: Head) -> Tensor:
    """Lay out a raw map by its meaning.

    Args:
        raw: The map.
        head: Its head.

    Returns:
        (batch, anchors, rows, columns, 5 + classes), still raw.

    Raises:
        RequestError: The map has other channels than the head.
    """
    if raw.shape[1] != head.channels:
        what = f"a map of {raw.shape[1]} channels, head {head.index} has {head.channels}"
        raise RequestError(what, do="pass the maps in the order of the heads")
    return raw.unflatten(1, (len(head.anchors), 5 + head.classes)).permute(0, 1, 3, 4, 2)


def decode_boxes(cells: Tensor, head: Head, size: tuple[int, int]) -> Tensor:
    """The boxes of an unfolded map.

    Args:
        cells: What `unfold` returned, in any floating dtype.
        head: Its head.
        size: Height and width of the images in pixels.

    Returns:
        Left, top, right, bottom in pixels: (batch, anchors, rows, columns, 4).
    """
    rows, columns = cells.shape[2:4]
    stretch = head.scale_x_y
    place = cells[..., :2].sigmoid() * stretch - (stretch - 1) / 2
    y, x = torch.meshgrid(
        torch.arange(rows, device=cells.device), torch.arange(columns, device=cells.device), indexing="ij"
    )
    scale = cells.new_tensor([size[1] / columns, size[0] / rows])
    centre = (place + torch.stack([x, y], -1)) * scale
    extent = cells[..., 2:4].exp() * cells.new_tensor(head.anchors)[:, None, None, :]
    return torch.cat([centre - extent / 2, centre + extent / 2], -1)
