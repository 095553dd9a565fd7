"""Image files to pixels; whatever a file holds, the only error is a `DataError`.

Pillow is what decodes: it reads every format that a data set may hold. The orientation that a camera wrote
into the file (EXIF) is not applied: Darknet and the annotations of COCO and VOC go by the stored pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from secateur.domains.darknet.data.boxes import Sample
from secateur.errors import DataError

# What Pillow raises on broken files: SyntaxError for PNG, struct.error (a ValueError's cousin) for TIFF.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, Image.DecompressionBombError)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(
            f"cannot read the image {path}", [reason], "replace the file, or take it out"
        ) from error


def read_image(path: Path) -> UInt8[Tensor, "3 h w"]:
    """Decode one image as RGB.

    Args:
        path: The file.

    Returns:
        Pixels from 0 to 255.

    Raises:
        DataError: The file is missing, truncated or no image.
    """
    with _explained(path), Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width in pixels from the file's head, without decoding it.

    Raises:
        DataError: The file is missing or no image.
    """
    with _explained(path), Image.open(path) as image:
        return image.height, image.width


def pixels_of(sample: Sample) -> UInt8[Tensor, "3 h w"]:
    """Take a sample's pixels from memory or its file.

    Raises:
        DataError: The file is missing, truncated or no image.
    """
    return read_image(sample.image) if isinstance(sample.image, Path) else sample.image


def size_of(sample: Sample) -> tuple[int, int]:
    """Take a sample's height and width in pixels.

    Raises:
        DataError: The file is missing or no image.
    """
    if isinstance(sample.image, Path):
        return image_size(sample.image)
    return int(sample.image.shape[1]), int(sample.image.shape[2])
