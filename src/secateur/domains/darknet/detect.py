"""Find things in pictures: detections as data, drawn pictures, videos, JSON."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from secateur.costs.stopwatch import quiet
from secateur.domains.darknet.data.letterbox import Letterbox
from secateur.domains.darknet.draw import draw, to_pixels
from secateur.domains.darknet.evaluate import Detections, detections
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import predictor
from secateur.domains.darknet.streams import StreamPicture, open_cv, pictures
from secateur.errors import RequestError
from secateur.write.atomic import atomic_write

__all__ = ["Detected", "Gallery", "Thresholds", "detect", "detect_picture", "save_json"]


@dataclass(frozen=True)
class Thresholds:
    """What counts as found.

    Attributes:
        conf: Smallest confidence.
        iou: Of two boxes of a class with a larger overlap (IoU), the less confident one is dropped.
    """

    conf: float = 0.25
    iou: float = 0.45


@dataclass(frozen=True, eq=False)
class Detected:
    """What was found in one picture.

    Attributes:
        picture: The picture.
        found: Boxes in its pixels, best first.
        names: Class names.
    """

    picture: StreamPicture
    found: Detections
    names: tuple[str, ...]

    def numbers(self) -> dict[str, Any]:
        """The figures for machines: boxes are left, top, right and bottom in pixels."""
        height, width = self.picture.pixels.shape[1:]
        rows = zip(
            self.found.classes.tolist(), self.found.scores.tolist(), self.found.boxes.tolist(), strict=True
        )
        listed = [
            {"class": label, "name": self.names[label], "score": score, "box": box}
            for label, score, box in rows
        ]
        frame = {} if self.picture.frame is None else {"frame": self.picture.frame}
        return {"image": self.picture.name, **frame, "width": width, "height": height, "detections": listed}

    def __str__(self) -> str:
        frame = "" if self.picture.frame is None else f" frame {self.picture.frame}"
        found = [
            f"{self.names[label]} {score:.2f}"
            for label, score in zip(self.found.classes.tolist(), self.found.scores.tolist(), strict=True)
        ]
        return f"{self.picture.name}{frame}: {', '.join(found) or 'nothing'}"


def detect(
    model: Darknet,
    source: str,
    names: Sequence[str],
    thresholds: Thresholds | None = None,
    *,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
) -> Iterator[Detected]:
    """Find things in an image, a folder, a video, a camera's or a stream's pictures, one after the other.

    Args:
        model: The network; run in eval mode, its mode is restored.
        source: See `secateur.domains.darknet.streams.pictures`.
        names: Class names.
        thresholds: What counts as found.
        size: Height and width of the network's input in pixels; None takes the cfg's.
        limit: At most this many pictures; None goes on to the end, of a camera's for ever.

    Yields:
        What was found in each picture.

    Raises:
        RequestError: The names are not as many as the classes, or as for `pictures`.
        DataError: As for `pictures`.
    """
    if any(head.classes != len(names) for head in model.heads):
        what = f"{len(names)} names, the network has {model.heads[0].classes} classes"
        raise RequestError(what, do="pass the names that the network was trained with")
    for picture in islice(pictures(source), limit):
        found = detect_picture(model, picture.pixels, thresholds, size=size)
        yield Detected(picture, found, tuple(names))


def detect_picture(
    model: Darknet,
    pixels: torch.Tensor,
    thresholds: Thresholds | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> Detections:
    """Find things in one picture.

    Args:
        model: The network; run in eval mode, its mode is restored.
        pixels: RGB, 0 to 255: (3, height, width), of any size: it is letterboxed.
        thresholds: What counts as found.
        size: Height and width of the network's input in pixels; None takes the cfg's.

    Returns:
        Boxes in the picture's pixels, best first.

    Example:
        >>> found = detect_picture(Darknet("digits"), torch.zeros(3, 50, 80, dtype=torch.uint8))
        >>> found.boxes.shape[1]
        4
    """
    thresholds = thresholds or Thresholds()
    letterbox = Letterbox((int(pixels.shape[1]), int(pixels.shape[2])), size or model.image_size())
    with quiet(model, threads=None), torch.inference_mode():
        boxes, scores = predictor(model)(letterbox.image(pixels)[None])
        (found,) = detections(boxes, scores, thresholds.conf, thresholds.iou)
        return replace(found, boxes=letterbox.back(found.boxes))


def save_json(found: Sequence[dict[str, Any]], path: Path | str) -> Path:
    """Write what was found in all pictures as one JSON list; returns the path."""
    atomic_write(path, json.dumps(list(found), indent=1).encode())
    return Path(path)


class Gallery:
    """Writes drawn pictures into a folder: images as PNG, frames of one source as one video.

    A context manager, because a video must be closed.

    Args:
        folder: Where to write; made if it is missing.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.written: list[Path] = []
        self._video: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.release()

    def add(self, detected: Detected) -> Path:
        """Draw what was found and write it.

        Returns:
            The image, or the video that the frame went into.

        Raises:
            RequestError: A video is to be written and OpenCV is missing, or cannot write one.
        """
        picture = detected.picture
        if picture.frame is not None:
            return self._add_frame(detected)
        path = self.folder / f"{Path(picture.name).stem}.png"
        if path in self.written:  # a.jpg and a.png of one folder
            path = self.folder / f"{picture.name}.png"
        drawn = draw(picture.pixels, detected.found, detected.names)
        atomic_write(path, drawn.save)
        self.written.append(path)
        return path

    def _add_frame(self, detected: Detected) -> Path:
        cv2 = open_cv("writing a video")
        picture = detected.picture
        drawn = to_pixels(draw(picture.pixels, detected.found, detected.names, least=1))
        if self._video is None:
            stem = re.sub(r"[^\w.-]+", "-", Path(picture.name).stem).strip("-") or "frames"
            path = self.folder / f"{stem}-detected.mp4"
            size = (drawn.shape[2], drawn.shape[1])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(path), codec, picture.rate or 25.0, size)
            if not self._video.isOpened():
                raise RequestError(
                    f"OpenCV cannot write {path}", do="leave out --save, or name another folder"
                )
            self.written.append(path)
        self._video.write(drawn.permute(1, 2, 0).flip(-1).contiguous().numpy())
        return self.written[-1]
