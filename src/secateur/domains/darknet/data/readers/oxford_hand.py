"""The Oxford Hand data set: a MATLAB file an image, with the four corners of each hand's slanted rectangle.

`hand_dataset/{training,validation,test}_dataset/*_data/` hold `images/*.jpg` and `annotations/*.mat`. A
file has a cell array `boxes`; each cell is a struct with corners `a`, `b`, `c`, `d`, each (row, column) in
MATLAB's pixels, whose first one is centred at 1. The one class is "hand"; the box is the upright one around
the corners.

References:
    Mittal, Zisserman and Torr, "Hand detection using multiple proposals", BMVC 2011.
    https://www.robots.ox.ac.uk/~vgg/data/hands/
"""

from pathlib import Path
from typing import Any

import numpy as np

from secateur.domains.darknet.data.boxes import Annotations, BoxRows, LabelledImage, Problem
from secateur.domains.darknet.data.images import image_size
from secateur.domains.darknet.data.matlab import read_variable
from secateur.domains.darknet.data.readers import formats
from secateur.errors import DataError

_PARTS = {
    "train": "training_dataset/training_data",
    "valid": "validation_dataset/validation_data",
    "test": "test_dataset/test_data",
}


@formats("oxford-hand")
def read_oxford_hand(source: Path, names: tuple[str, ...] | None) -> Annotations:
    """Read `hand_dataset/`, or one part's folder with `images/` and `annotations/`."""
    folders = {part: source / sub for part, sub in _PARTS.items() if (source / sub).is_dir()}
    if not folders and (source / "annotations").is_dir():
        folders = {"train": source}
    if not folders:
        looked = [f"looked for {sub}" for sub in (*_PARTS.values(), "annotations")]
        raise DataError(f"{source} is not the Oxford Hand data set", looked, "pass the folder hand_dataset")
    problems: list[Problem] = []
    parts = {}
    for part, folder in folders.items():
        files = sorted((folder / "annotations").glob("*.mat"))
        parts[part] = tuple(_read(folder, path, problems) for path in files)
    return Annotations(names or ("hand",), parts, tuple(problems), str(source))


def _read(folder: Path, path: Path, problems: list[Problem]) -> LabelledImage:
    image = folder / "images" / f"{path.stem}.jpg"
    rows = BoxRows(1, problems)
    try:
        height, width = image_size(image)
        if not height or not width:
            raise DataError(f"{image} has no pixels")
    except DataError:
        # Without the image there is no size, so no share of it: skipped and counted, as any broken image is.
        problems.append(Problem(str(image), "the image is missing or broken: no boxes", fatal=False))
        return LabelledImage(image, rows.labels())
    try:
        hands = _corners(path)
    except DataError as error:
        problems.append(Problem(str(path), error.what))
        return LabelledImage(image, rows.labels())
    for index, corners in enumerate(hands, 1):
        (top, left), (bottom, right) = corners.min(0) - 0.5, corners.max(0) - 0.5
        rows.add_corners(f"{path}: box {index}", 0, (left, top, right, bottom), (height, width))
    return LabelledImage(image, rows.labels())


def _corners(path: Path) -> list[np.ndarray]:
    """Read the corners (4 points of row, column) of each hand."""
    try:
        hands = read_variable(path.read_bytes(), "boxes")
        if not isinstance(hands, list):
            raise ValueError("boxes is neither a cell nor a struct")
        # A cell holds structs of one element each; a struct of several elements will do, too.
        structs = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in hands]
        return [_points(one) for one in structs]
    except (OSError, ValueError) as error:
        do = "save it as boxes{i} with fields a, b, c, d, in MATLAB's version 7 format"
        raise DataError(f"not of the hand data set's layout ({error})", do=do) from error


def _points(fields: Any) -> np.ndarray:
    if not isinstance(fields, dict):
        raise ValueError("a box is no struct")
    points = [fields.get(name) for name in "abcd"]
    if not all(isinstance(point, np.ndarray) and point.size == 2 for point in points):
        raise ValueError("a box lacks a corner of two numbers")
    return np.array(points, dtype=np.float64)
