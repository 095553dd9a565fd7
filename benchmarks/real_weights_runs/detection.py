"""From a photo to the objects on it, by Darknet's own steps, and how two such lists compare."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from real_weights_runs.yolo_tiny import SIDE
from secateur.domains.darknet import Darknet, Head, decode

THRESHOLD = 0.25
"""Confidence from which an object counts as found; what `detect` of Darknet shows is 0.5."""
OVERLAP = 0.45
"""Intersection over union from which the weaker of two boxes of one class goes; Darknet's."""
SAME = 0.5
"""Intersection over union from which two boxes of one class are the same object."""
NOT_IN_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""The numbers among COCO's 91 that no class has; Darknet writes its results with the other 80."""
COCO = [number for number in range(1, 92) if number not in NOT_IN_COCO]


@dataclass(frozen=True)
class Photo:
    """A photo as the network sees it.

    Attributes:
        name: File name without suffix.
        pixels: (3, height, width) from 0 to 1.
        image: Letterboxed, (1, 3, 416, 416).
    """

    name: str
    pixels: Tensor
    image: Tensor

    @classmethod
    def read(cls, path: Path) -> "Photo":
        """Read and letterbox a photo."""
        pixels = torchvision.io.read_image(str(path), torchvision.io.ImageReadMode.RGB).float() / 255
        return cls(path.stem, pixels, letterbox(pixels))


@dataclass(frozen=True)
class Found:
    """An object on a photo.

    Attributes:
        kind: Number of its class.
        confidence: Objectness times class share.
        box: Left, top, right, bottom in pixels of the photo.
    """

    kind: int
    confidence: float
    box: tuple[float, float, float, float]


def letterbox(pixels: Tensor) -> Tensor:
    """Scale a photo into the middle of a grey square, interpolating from corner to corner as Darknet does."""
    height, width = fit(pixels)
    small = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=True)
    square = torch.full((1, 3, SIDE, SIDE), 0.5)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square[:, :, top : top + height, left : left + width] = small
    return square


def fit(pixels: Tensor) -> tuple[int, int]:
    """Height and width of a photo in the square."""
    height, width = pixels.shape[-2:]
    if width > height:
        return height * SIDE // width, SIDE
    return SIDE, width * SIDE // height


@torch.inference_mode()
def detect(model: Darknet, photo: Photo, threshold: float = THRESHOLD) -> list[Found]:
    """The objects on a photo, the surest first."""
    return find(model(photo.image), model.heads, photo, threshold)


def find(maps: Sequence[Tensor], heads: Sequence[Head], photo: Photo, threshold: float) -> list[Found]:
    """The objects in the maps that a network made of a photo, the surest first."""
    boxes, scores, objectness = (part[0] for part in decode(maps, heads, (SIDE, SIDE)))
    scores = torch.where(objectness[:, None] > threshold, scores, 0.0)
    rows, kinds = (scores > threshold).nonzero(as_tuple=True)
    chosen, scores = _on_photo(boxes[rows], photo), scores[rows, kinds]
    kept = torchvision.ops.batched_nms(chosen, scores, kinds, OVERLAP)
    height, width = photo.pixels.shape[-2:]
    chosen = torchvision.ops.clip_boxes_to_image(chosen, (height, width))
    return [
        Found(int(kinds[index]), float(scores[index]), tuple(chosen[index].tolist()))
        for index in kept.tolist()
    ]


def _on_photo(boxes: Tensor, photo: Photo) -> Tensor:
    """Corners in pixels of the photo from those in pixels of the square."""
    inner = torch.tensor(fit(photo.pixels)[::-1], dtype=torch.float32).repeat(2)
    size = torch.tensor(photo.pixels.shape[:-3:-1], dtype=torch.float32).repeat(2)
    return (boxes - (SIDE - inner) / 2) / inner * size


def overlap(first: Found, second: Found) -> float:
    """Intersection over union of two boxes."""
    return float(torchvision.ops.box_iou(torch.tensor([first.box]), torch.tensor([second.box])))


def match(truth: Sequence[Found], found: Sequence[Found]) -> list[tuple[Found, Found | None]]:
    """For each object of the first list the same one of the second: of one class, overlapping enough."""
    free = list(found)
    pairs: list[tuple[Found, Found | None]] = []
    for one in truth:
        same = [other for other in free if other.kind == one.kind and overlap(one, other) >= SAME]
        best = max(same, key=lambda other: overlap(one, other), default=None)
        if best is not None:
            free.remove(best)
        pairs.append((one, best))
    return pairs


def average_precision(truth: Sequence[Sequence[Found]], found: Sequence[Sequence[Found]]) -> float:
    """Area under precision over recall, of all photos and classes together; asks for no threshold.

    Args:
        truth: The objects of each photo.
        found: What is measured, each with its confidence.
    """
    free = [list(known) for known in truth]
    ranked = sorted(
        ((one, known) for photo, known in zip(found, free, strict=True) for one in photo),
        key=lambda pair: pair[0].confidence,
        reverse=True,
    )
    precisions: list[float] = []
    for rank, (one, known) in enumerate(ranked, start=1):
        same = [other for other in known if other.kind == one.kind and overlap(one, other) >= SAME]
        if same:
            known.remove(max(same, key=lambda other: overlap(one, other)))
            precisions.append((len(precisions) + 1) / rank)
    best = [max(precisions[index:]) for index in range(len(precisions))]
    return sum(best) / sum(map(len, truth))


def run_darknet(folder: Path, photos: Sequence[Path], threshold: float) -> list[list[Found]] | None:
    """What the `darknet` program finds on each photo; None if it is not installed.

    `detector valid` writes boxes and confidences with six digits, and opens no window.
    """
    program = shutil.which("darknet")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for index, photo in enumerate(photos):  # Darknet takes the number of an image from its name
            shutil.copyfile(photo, work / f"photo_{index}.jpg")
        listed = "\n".join(str(work / f"photo_{index}.jpg") for index in range(len(photos)))
        (work / "list.txt").write_text(f"{listed}\n")
        data = {"valid": work / "list.txt", "results": work, "eval": "coco", "names": folder / "coco.names"}
        (work / "coco.data").write_text("".join(f"{key}={value}\n" for key, value in data.items()))
        words = ["valid", work / "coco.data", folder / "yolov3-tiny.cfg", folder / "yolov3-tiny.weights"]
        subprocess.run([program, "detector", *words], check=True, capture_output=True, cwd=work)
        rows = json.loads((work / "coco_results.json").read_text())
    found: list[list[Found]] = [[] for _ in photos]
    for row in rows:
        if row["score"] > threshold:
            left, top, width, height = row["bbox"]
            box = (left, top, left + width, top + height)
            found[row["image_id"]].append(Found(COCO.index(row["category_id"]), row["score"], box))
    return found
