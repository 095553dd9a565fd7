"""Augmentation of images with boxes, by torchvision.transforms.v2.

The order is Darknet's: colours, then the shape, then the mirror. Boxes follow the shape; what leaves the
image is clipped, and a box of which less than a quarter is left is dropped: nobody could tell what it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.domains.darknet.data.boxes import Labels
from secateur.domains.darknet.data.letterbox import GREY
from secateur.errors import RequestError
from secateur.extras import Later

ops = Later("torchvision.ops")
tv_tensors = Later("torchvision.tv_tensors")
v2 = Later("torchvision.transforms.v2")

LEAST_VISIBLE = 0.25
"""Share of a box's area that must be left inside of the image."""


@dataclass(frozen=True)
class Augmentation:
    """How much training images are changed; every number is the largest change, drawn anew for each image.

    Args:
        flip: Probability of a mirror image. 0 where left and right differ, as in digits and letters.
        hue: Turn of the colour wheel, as a share of it, at most 0.5.
        saturation: Factor of the saturation, from 1 / saturation to saturation.
        exposure: Factor of the brightness, from 1 / exposure to exposure.
        degrees: Rotation to either side.
        shift: Move, as a share of the input's width and height.
        scale: Factors of the size, smallest and largest; below 1 zooms out onto grey.
        mosaic: Probability that four images are put together into one.

    Example:
        >>> Augmentation(flip=0.0, scale=(0.9, 1.1)).shift
        0.1
    """

    flip: float = 0.5
    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5
    degrees: float = 0.0
    shift: float = 0.1
    scale: tuple[float, float] = (0.7, 1.3)
    mosaic: float = 0.0

    def __post_init__(self) -> None:
        for name, least, most in (("flip", 0, 1), ("mosaic", 0, 1), ("hue", 0, 0.5), ("shift", 0, 1)):
            if not least <= getattr(self, name) <= most:
                allowed = [f"allowed: {least} <= {name} <= {most}"]
                raise RequestError(f"{name} is {getattr(self, name)}", allowed, "pass a number in that range")
        if min(self.saturation, self.exposure) < 1 or not 0 < self.scale[0] <= self.scale[1]:
            what = f"saturation is {self.saturation}, exposure {self.exposure}, scale {self.scale}"
            allowed = ["allowed: saturation and exposure at least 1, scale (smallest, largest) above 0"]
            raise RequestError(what, allowed, "pass factors in that range")

    @classmethod
    def of_cfg(cls, options: Mapping[str, str]) -> "Augmentation":
        """Take the settings that the `[net]` section of a Darknet cfg has, and the default for the others.

        Args:
            options: Keys and values of the section: hue, saturation, exposure, angle, flip, mosaic.

        Raises:
            RequestError: A value that is no number.

        Example:
            >>> Augmentation.of_cfg({"hue": ".1", "exposure": "1.5", "angle": "7", "flip": "0"}).degrees
            7.0
        """
        keys = ("hue", "saturation", "exposure", "angle", "flip", "mosaic")
        try:
            given: dict[str, Any] = {key: float(options[key]) for key in keys if key in options}
        except ValueError as error:
            raise RequestError(f"[net] of the cfg: {error}", do="write a number") from error
        given |= {key: 0.5 if given[key] else 0.0 for key in ("flip", "mosaic") if key in given}
        return cls(**{"degrees" if key == "angle" else key: value for key, value in given.items()})

    def transform(self) -> Callable[..., Any]:
        """Make torchvision's transform of (image, boxes); it draws from torch's global generator."""
        steps: list[Callable[..., Any]] = []
        if self.hue or self.saturation > 1 or self.exposure > 1:
            brightness, saturation = ((1 / most, most) for most in (self.exposure, self.saturation))
            steps.append(v2.ColorJitter(brightness, saturation=saturation, hue=self.hue))
        if self.degrees or self.shift or self.scale != (1, 1):
            shifts, smooth = (self.shift, self.shift), v2.InterpolationMode.BILINEAR
            steps.append(v2.RandomAffine(self.degrees, shifts, self.scale, interpolation=smooth, fill=GREY))
        steps.append(v2.RandomHorizontalFlip(self.flip))
        composed: Callable[..., Any] = v2.Compose(steps)
        return composed


def augment(
    transform: Callable[..., Any], image: Float[Tensor, "3 h w"], labels: Labels
) -> tuple[Float[Tensor, "3 h w"], Labels]:
    """Change one image and its boxes together.

    Args:
        transform: Such as `Augmentation.transform()` makes.
        image: Values from 0 to 1.
        labels: Its boxes.

    Returns:
        A new image of the same size, and the boxes that are still in it.
    """
    height, width = image.shape[1:]
    full = torch.tensor([width, height, width, height])
    corners = tv_tensors.BoundingBoxes(
        ops.box_convert(labels.boxes, "cxcywh", "xyxy") * full,
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=(height, width),
        clamping_mode=None,  # clipping is ours: a clipped box no longer says how much of it is gone
    )
    changed, moved = transform(tv_tensors.Image(image), corners)
    return changed.as_subclass(Tensor), clip(moved.as_subclass(Tensor) / full, labels)


def clip(corners: Float[Tensor, "n 4"], labels: Labels) -> Labels:
    """Clip boxes to the image and drop those that have left it.

    Args:
        corners: Left, top, right and bottom as shares of the image.
        labels: Their classes; its boxes are not looked at.

    Returns:
        The boxes with at least a quarter of their area inside.

    Example:
        >>> labels = Labels.of([(0, (0, 0, 1, 1)), (1, (0, 0, 1, 1))])
        >>> clip(torch.tensor([[-0.1, 0.0, 0.1, 0.2], [-0.3, 0.0, 0.05, 0.2]]), labels).boxes
        tensor([[0.0500, 0.1000, 0.1000, 0.2000]])
    """
    inside = ops.clip_boxes_to_image(corners, (1, 1))
    left = ops.box_area(inside)
    kept = (left > 0) & (left >= LEAST_VISIBLE * ops.box_area(corners))
    boxes = ops.box_convert(inside[kept], "xyxy", "cxcywh")
    return Labels(labels.classes[kept], boxes, labels.ignored[kept])
