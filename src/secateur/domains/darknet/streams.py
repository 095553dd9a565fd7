"""Where pictures come from: an image, a folder of images, a video file, a camera, a stream.

Images are read by Pillow. Videos, cameras (a number) and streams (an address with ://) need OpenCV, which is
optional.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from secateur.domains.darknet.data.images import IMAGE_SUFFIXES, read_image
from secateur.errors import BrokenImageWarning, DataError, RequestError

__all__ = ["StreamPicture", "is_moving", "open_cv", "pictures"]

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
"""What a file is taken for a video by."""


@dataclass(frozen=True, eq=False)
class StreamPicture:
    """One picture.

    Attributes:
        name: The file's name; the stream's name for frames.
        pixels: RGB, 0 to 255.
        frame: Which frame of a video or stream, from 0; None for an image.
        rate: Frames a second, where the video says so.
    """

    name: str
    pixels: UInt8[Tensor, "3 h w"]
    frame: int | None = None
    rate: float = 0.0


def is_moving(source: str) -> bool:
    """Whether a source is a video, a camera or a stream.

    Example:
        >>> [is_moving(source) for source in ("0", "rtsp://camera/1", "a/clip.MP4", "photo.jpg")]
        [True, True, True, False]
    """
    return source.isdecimal() or "://" in source or Path(source).suffix.lower() in VIDEOS


def pictures(source: str) -> Iterator[StreamPicture]:
    """Read pictures one after the other.

    Args:
        source: An image file, a folder (its images in the order of their names), a video file, the number of
            a camera, or a stream's address.

    Yields:
        The pictures. An image of a folder that cannot be read is left out with a warning.

    Raises:
        RequestError: There is no such source, a folder holds no image, or OpenCV is needed and missing.
        DataError: A single image, or all images of a folder, or the video cannot be read.
    """
    if is_moving(source):
        yield from _frames(source)
        return
    path = Path(source)
    if not path.exists():
        do = "pass an image, a folder, a video, a camera's number or a stream's address"
        raise RequestError(f"there is no {path}", do=do)
    if path.is_file():
        yield StreamPicture(path.name, read_image(path))
        return
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        looked = [f"looked for: {', '.join(IMAGE_SUFFIXES)}"]
        raise RequestError(f"{path} holds no image", looked, "check the folder")
    broken: list[str] = []
    for file in files:
        try:
            picture = StreamPicture(file.name, read_image(file))
        except DataError as error:
            broken.append(str(error).splitlines()[0])
            left_out = f"left out {file}: {str(error).splitlines()[1].strip()}"
            warnings.warn(
                f"{left_out} ({len(broken)} of {len(files)} images)", BrokenImageWarning, stacklevel=2
            )
            continue
        yield picture
    if len(broken) == len(files):
        raise DataError(f"none of the {len(files)} images in {path} can be read", broken, "check the files")


def open_cv(purpose: str) -> Any:
    """Import OpenCV.

    Args:
        purpose: What it is needed for, for the message.

    Raises:
        RequestError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        do = "pip install 'secateur[video]'; images and folders work without it"
        raise RequestError(f"{purpose} needs OpenCV, which is not installed", do=do) from error
    return cv2


def _frames(source: str) -> Iterator[StreamPicture]:
    cv2 = open_cv(f"reading {source}")
    if not source.isdecimal() and "://" not in source and not Path(source).is_file():
        raise RequestError(f"there is no {source}", do="check the name")
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            what = f"OpenCV cannot open {source}"
            raise DataError(what, do="check the file, or that the camera is there and free")
        rate, frame = float(capture.get(cv2.CAP_PROP_FPS) or 0), 0
        name = Path(source).name if "://" not in source and not source.isdecimal() else source
        while True:
            is_read, pixels = capture.read()
            if not is_read:
                break
            rgb = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
            yield StreamPicture(name, rgb, frame, rate)
            frame += 1
        if not frame:
            raise DataError(f"{source} gives no frame", do="check the file")
    finally:
        capture.release()
