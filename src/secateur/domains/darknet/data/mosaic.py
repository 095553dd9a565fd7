"""Four images in one: each fills the space between the middle and a corner.

References:
    Bochkovskiy, Wang and Liao, "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, section 3.3.
    https://arxiv.org/abs/2004.10934
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from secateur.domains.darknet.data.augment import clip
from secateur.domains.darknet.data.boxes import Labels
from secateur.domains.darknet.data.letterbox import GREY, Letterbox, scaled_to
from secateur.extras import Later

ops = Later("torchvision.ops")


def mosaic(
    images: Sequence[tuple[UInt8[Tensor, "3 h w"], Labels]],
    size: tuple[int, int],
    generator: np.random.Generator,
) -> tuple[Float[Tensor, "3 height width"], Labels]:
    """Put four images around a random middle point.

    Each is scaled, its aspect kept, to 0.6 to 1 of the input, and lies with one corner at the middle point;
    what reaches over the edge is cut off.

    Args:
        images: Four images with their labels.
        size: Height and width of the input in pixels.
        generator: Source of the random choices.

    Returns:
        The image, values from 0 to 1, and the boxes that are in it.
    """
    height, width = size
    row, column = (int(side * generator.uniform(0.3, 0.7)) for side in size)
    canvas = torch.full((3, height, width), GREY)
    found: list[Labels] = []
    for index, (pixels, labels) in enumerate(images):
        share = generator.uniform(0.6, 1.0)
        room = (max(1, int(height * share)), max(1, int(width * share)))
        h, w = Letterbox((pixels.shape[1], pixels.shape[2]), room).inner
        scaled = scaled_to(pixels, (h, w))
        top, left = row - h * (index < 2), column - w * (index % 2 == 0)
        up, down, start, end = max(0, top), min(height, top + h), max(0, left), min(width, left + w)
        canvas[:, up:down, start:end] = scaled[:, up - top : down - top, start - left : end - left]
        corners = ops.box_convert(labels.boxes, "cxcywh", "xyxy") * torch.tensor([w, h, w, h])
        corners = (corners + torch.tensor([left, top, left, top])) / torch.tensor([width, height] * 2)
        found.append(clip(corners, labels))
    return canvas, Labels.together(found)
