"""Boxes drawn into pictures, by Pillow."""

import colorsys
from collections.abc import Sequence

from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from secateur.domains.darknet.evaluate import Detections
from secateur.extras import Later

functional = Later("torchvision.transforms.v2.functional")

__all__ = ["class_colour", "draw", "side_by_side"]

_GOLDEN = 0.618033988749895
_SMALLEST = 320


def class_colour(index: int) -> tuple[int, int, int]:
    """A colour for each class: hues a golden angle apart, so that neighbours differ.

    Example:
        >>> class_colour(0), class_colour(1)
        ((242, 61, 61), (61, 114, 242))
    """
    rgb = colorsys.hsv_to_rgb(index * _GOLDEN % 1, 0.75, 0.95)
    return round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)


def draw(
    pixels: UInt8[Tensor, "3 h w"], found: Detections, names: Sequence[str], *, least: int = _SMALLEST
) -> Image.Image:
    """Draw boxes with their class and score.

    Args:
        pixels: The image, 0 to 255.
        found: Boxes in its pixels, best first; the best are drawn last, on top.
        names: Class names.
        least: A picture whose longer side is below this many pixels is enlarged by a whole number, so that
            labels can be read.

    Returns:
        A new picture.

    Example:
        >>> import torch
        >>> boxes = Detections(torch.tensor([[2.0, 2, 9, 9]]), torch.tensor([0.9]), torch.tensor([1]))
        >>> draw(torch.zeros(3, 16, 24, dtype=torch.uint8), boxes, ["cat", "dog"], least=40).size
        (48, 32)
    """
    factor = max(1, -(-least // max(pixels.shape[1:])))
    picture = functional.to_pil_image(pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2))
    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 300))
    font = ImageFont.load_default(size=max(11, round(max(picture.size) / 32)))
    for row in reversed(range(len(found))):
        left, top, right, bottom = (found.boxes[row] * factor).tolist()
        colour = class_colour(int(found.classes[row]))
        pen.rectangle((left, top, right, bottom), outline=colour, width=line)
        text = f"{names[int(found.classes[row])]} {found.scores[row]:.2f}"
        _, _, width, height = pen.textbbox((0, 0), text, font=font)
        # Above the box, or inside of it where there is no room above.
        shelf = top - height - 2 if top >= height + 2 else top
        pen.rectangle((left, shelf, left + width + 4, shelf + height + 2), fill=colour)
        pen.text((left + 2, shelf), text, fill=(0, 0, 0), font=font)
    return picture


def side_by_side(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Put pictures into a grid with a title over each column.

    Args:
        rows: Pictures, as many in each row as there are titles.
        titles: One for each column.

    Returns:
        One picture on white.

    Example:
        >>> side_by_side([[Image.new("RGB", (20, 10))] * 2], ["dense", "pruned"]).size
        (48, 38)
    """
    gap, head = 4, 20
    width = max(picture.width for row in rows for picture in row) + gap
    height = max(picture.height for row in rows for picture in row) + gap
    canvas = Image.new("RGB", (width * len(titles), height * len(rows) + head + gap), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for column, title in enumerate(titles):
        pen.text((column * width + gap, 2), title, fill="black", font=font)
        for number, row in enumerate(rows):
            canvas.paste(row[column], (column * width + gap // 2, number * height + head))
    return canvas


def to_pixels(picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """A picture as a tensor, 0 to 255."""
    pixels: Tensor = functional.pil_to_tensor(picture.convert("RGB"))
    return pixels
