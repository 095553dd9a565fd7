"""The Oxford Hand data set: a MATLAB file an image, with the four corners of each hand's slanted rectangle.

`hand_dataset/{training,validation,test}_dataset/*_data/` hold `images/*.jpg` and `annotations/*.mat`. A
file has a cell array `boxes`; each cell is a struct with corners `a`, `b`, `c`, `d`, each (row, column) in
MATLAB's pixels, whose first one is centred at 1. The one class is "hand"; the box is the upright one around
the corners. SciPy reads MATLAB's format; nothing is unpickled.

References:
    Mittal, Zisserman and Torr, "Hand detection using multiple proposals", BMVC 2011.
    https://www.robots.ox.ac.uk/~vgg/data/hands/
"""

from pathlib import Path
from typing import Any

import numpy as np

from secateur.domains.darknet.data.boxes import Annotations, Problem, Rows, Sample
from secateur.domains.darknet.data.images import image_size
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


def _read(folder: Path, path: Path, problems: list[Problem]) -> Sample:
    image = folder / "images" / f"{path.stem}.jpg"
    rows = Rows(1, problems)
    try:
        height, width = image_size(image)
    except DataError:
        # Without the image there is no size, so no share of it: skipped and counted, as any broken image is.
        problems.append(Problem(str(image), "the image is missing or broken: no boxes", fatal=False))
        return Sample(image, rows.labels())
    try:
        hands = _corners(path)
    except DataError as error:
        problems.append(Problem(str(path), error.what))
        return Sample(image, rows.labels())
    for index, corners in enumerate(hands, 1):
        (top, left), (bottom, right) = corners.min(0) - 0.5, corners.max(0) - 0.5
        x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
        rows.add(f"{path}: box {index}", 0, (x, y, (right - left) / width, (bottom - top) / height))
    return Sample(image, rows.labels())


def _corners(path: Path) -> list[np.ndarray]:
    """Read the corners (4 points of row, column) of each hand."""
    from scipy.io import loadmat  # a second of imports that only this format needs
    from scipy.io.matlab import MatReadError

    try:
        cells = loadmat(path, squeeze_me=True, struct_as_record=False)["boxes"]
        return [_points(cell) for cell in np.atleast_1d(cells)]
    except (
        MatReadError,
        NotImplementedError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        what = f"not of the hand data set's layout ({type(error).__name__}: {error})"
        raise DataError(
            what, do="save it as boxes{i} with fields a, b, c, d, in MATLAB's version 7 format"
        ) from error


def _points(cell: Any) -> np.ndarray:
    points = np.array([getattr(cell, name) for name in "abcd"], dtype=np.float64)
    if points.shape != (4, 2):
        raise ValueError(f"corners of shape {points.shape}")
    return points
