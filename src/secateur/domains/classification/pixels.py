"""Pixels: the images of a part, in memory or in their files, which are read each time they are needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

from secateur.errors import RequestError
from secateur.extras import extra


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images that stay in their files, indexed as a tensor of them would be.

    Attributes:
        paths: The files.
        channels: 1 for grey, 3 for colours.
        size: Height and width that they are brought to.
    """

    paths: tuple[Path, ...]
    channels: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the tensor."""
        return len(self.paths), self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Tensor) -> UInt8[Tensor, "n c h w"]:
        return torch.stack([read_image(self.paths[at], self.channels, self.size) for at in chosen.tolist()])

    def only(self, chosen: Tensor) -> "ImageFiles":
        """Some of the files."""
        return ImageFiles(tuple(self.paths[at] for at in chosen.tolist()), self.channels, self.size)


def broken_image_errors() -> tuple[type[Exception], ...]:
    """What `PIL.Image.open` raises on a file that is no image.

    Where ultralytics is imported it wraps `open`, which then asks for a package for HEIF files.
    """
    from PIL import Image

    return (OSError, ValueError, SyntaxError, ModuleNotFoundError, Image.DecompressionBombError)


def what_is_broken(error: BaseException) -> str:
    """Why a file cannot be opened, in PIL's own words.

    Example:
        >>> what_is_broken(OSError("truncated"))
        'truncated'
    """
    cause = error.__context__ if isinstance(error, ModuleNotFoundError) else None
    return str(cause or error)


def read_image(path: Path, channels: int, size: int) -> UInt8[Tensor, "c h w"]:
    """Read an image as a square.

    Raises:
        RequestError: The file is no image, or is broken.
    """
    with extra("train", "data sets of images"):
        from PIL import Image, ImageOps
        from torchvision.transforms.v2 import functional as transforms  # seconds of imports

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except broken_image_errors() as error:
        raise RequestError(
            f"{path} cannot be read as an image: {what_is_broken(error)}", do="replace or delete it"
        ) from error
    pixels: Tensor = transforms.pil_to_tensor(upright)
    if pixels.shape[-2:] == (size, size):
        return pixels
    squared: Tensor = transforms.center_crop(transforms.resize(pixels, [size], antialias=True), [size, size])
    return squared


Pixels: TypeAlias = UInt8[Tensor, "n c h w"] | ImageFiles
"""The images of a part, 0 to 255, in memory or in files."""


def only(pixels: Pixels, chosen: Tensor) -> Pixels:
    """Some of the images; those in files are not read for it."""
    return pixels.only(chosen) if isinstance(pixels, ImageFiles) else pixels[chosen]
