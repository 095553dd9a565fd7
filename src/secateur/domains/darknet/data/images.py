"""Image files to pixels; whatever a file holds, the only error is a `DataError`.

Pillow is what decodes: it reads every format that a data set may hold. The orientation that a camera wrote
into the file (EXIF) is not applied: Darknet and the annotations of COCO and VOC go by the stored pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from secateur.domains.classification.pixels import broken_image_errors, what_is_broken
from secateur.errors import DataError
from secateur.extras import Later

functional = Later("torchvision.transforms.v2.functional")

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What a file in a folder is taken for an image by."""

# What Pillow raises on broken files: SyntaxError for PNG, struct.error (a ValueError's cousin) for TIFF.
_BROKEN: tuple[type[Exception], ...] = (*broken_image_errors(), EOFError, TypeError, IndexError)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else what_is_broken(error)
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
        pixels: Tensor = functional.pil_to_tensor(image.convert("RGB"))
    return pixels


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width in pixels from the file's head, without decoding it.

    Raises:
        DataError: The file is missing or no image.
    """
    with _explained(path), Image.open(path) as image:
        return image.height, image.width
