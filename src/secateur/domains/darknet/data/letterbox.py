"""Fit an image into the network's input without changing its shape, and boxes there and back.

The image is scaled by s = min(W / w, H / h) to (floor(w s), floor(h s)), put in the middle (rounded down to a
pixel) and the rest is grey, 0.5. These are the integers of Darknet's `letterbox_image`.

References:
    Redmon, Darknet, `src/image.c`, function `letterbox_image`. https://github.com/pjreddie/darknet
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor

from secateur.errors import RequestError
from secateur.extras import Later

functional = Later("torchvision.transforms.v2.functional")
ops = Later("torchvision.ops")

GREY = 0.5
"""What the rest of a letterboxed image is filled with, from 0 (black) to 1 (white)."""

STRIDE = 32
"""The input of a network with Darknet's five halvings is a multiple of this many pixels."""


@dataclass(frozen=True)
class Letterbox:
    """How one image lies inside the network's input.

    Args:
        source: Height and width of the image in pixels.
        target: Height and width of the network's input in pixels.

    Example:
        >>> import torch
        >>> box = Letterbox((100, 200), (64, 64))
        >>> box.inner, box.corner
        ((32, 64), (16, 0))
        >>> box.back(torch.tensor([[0.0, 16.0, 64.0, 48.0]]))
        tensor([[  0.,   0., 200., 100.]])
    """

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the scaled image in pixels."""
        (h, w), (height, width) = self.source, self.target
        if width * h < height * w:
            return max(1, h * width // w), width
        return height, max(1, w * height // h)

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the scaled image's upper left pixel."""
        return (self.target[0] - self.inner[0]) // 2, (self.target[1] - self.inner[1]) // 2

    def image(self, pixels: UInt8[Tensor, "c h w"]) -> Float[Tensor, "c height width"]:
        """Scale the image (bilinear, antialiased), put it in the middle of grey; values from 0 to 1."""
        scaled = scaled_to(pixels, self.inner)
        (top, left), (height, width) = self.corner, self.inner
        beyond = [left, top, self.target[1] - width - left, self.target[0] - height - top]
        framed: Tensor = functional.pad(scaled, beyond, fill=GREY)
        return framed

    def boxes(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Map boxes (centre and size as shares of the image) to shares of the network's input."""
        (top, left), (height, width) = self.corner, self.inner
        scale = boxes.new_tensor([width, height, width, height])
        shift = boxes.new_tensor([left, top, 0, 0])
        full = boxes.new_tensor([self.target[1], self.target[0]] * 2)
        return (boxes * scale + shift) / full

    def back(self, corners: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Map boxes (left, top, right, bottom in pixels of the input) to the image, clipped to it."""
        (top, left), (height, width), (h, w) = self.corner, self.inner, self.source
        scale = corners.new_tensor([w / width, h / height] * 2)
        shifted = (corners - corners.new_tensor([left, top] * 2)) * scale
        clipped: Tensor = ops.clip_boxes_to_image(shifted, self.source)
        return clipped


def scaled_to(pixels: UInt8[Tensor, "c h w"], size: tuple[int, int]) -> Float[Tensor, "c height width"]:
    """Scale an image to height and width (bilinear, antialiased); values from 0 to 1."""
    scaled: Tensor = functional.resize(pixels.float() / 255, list(size), antialias=True)
    return scaled


def input_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Turn one number or (height, width) into (height, width), checked.

    Raises:
        RequestError: A size that is not a positive multiple of 32.

    Example:
        >>> input_size(416), input_size((96, 128))
        ((416, 416), (96, 128))
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1 or height % STRIDE or width % STRIDE:
        near = max(STRIDE, round(width / STRIDE) * STRIDE)
        what = f"the input size {height} x {width} is not a multiple of {STRIDE} pixels"
        raise RequestError(what, do=f"pass a multiple of {STRIDE}, such as {near}")
    return height, width


def rectangle(sources: Sequence[tuple[int, int]], size: tuple[int, int]) -> tuple[int, int]:
    """Find the smallest input in which a batch of images is letterboxed to the same scale as in `size`.

    Args:
        sources: Height and width of each image in pixels.
        size: Height and width of the full input in pixels.

    Returns:
        Height and width in pixels, multiples of 32, each at most that of `size`.

    Example:
        >>> rectangle([(480, 640), (360, 640)], (416, 416))
        (320, 416)
    """
    inner = [Letterbox(source, size).inner for source in sources]
    height, width = (max(values) for values in zip(*inner, strict=True))
    return math.ceil(height / STRIDE) * STRIDE, math.ceil(width / STRIDE) * STRIDE


def multi_scale(
    size: int | tuple[int, int], *, least: float = 0.67, most: float = 1.5
) -> tuple[tuple[int, int], ...]:
    """List the input sizes that multi-scale training changes between.

    Args:
        size: The middle size in pixels.
        least: Smallest size as a share of it.
        most: Largest size as a share of it.

    Returns:
        Heights and widths, one for each multiple of 32 of the longer side, the aspect kept.

    Raises:
        RequestError: No multiple of 32 lies between.

    Example:
        >>> [width for _, width in multi_scale(96)]
        [64, 96, 128]
    """
    height, width = input_size(size)
    longer = max(height, width)
    steps = range(math.ceil(longer * least / STRIDE - 0.05), math.floor(longer * most / STRIDE + 0.05) + 1)
    sizes = []
    for step in steps:
        if step >= 1:
            sides = [max(1, round(side * step / longer)) * STRIDE for side in (height, width)]
            sizes.append((sides[0], sides[1]))
    if not sizes:
        what = f"no multiple of {STRIDE} lies between {least} and {most} of {longer} pixels"
        raise RequestError(what, do="widen the range")
    return tuple(sizes)
