"""Images of the user's own: a folder with a folder for each class, or a table of paths and labels.

    mydata/cats/1.jpg   mydata/dogs/2.png           classes alone: test and validation images are drawn
    mydata/train/cats/1.jpg   mydata/test/...       with parts: train, validation (or val), test
    path,label,part                                 a CSV file with this first line; the part may be missing

All images become squares of one size: the shorter side is scaled, what juts out of the middle is cut off.
"""

import csv
import statistics
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from secateur.domains.classification.pixels import (
    ImageFiles,
    Pixels,
    broken_image_errors,
    only,
    read_image,
    what_is_broken,
)
from secateur.domains.classification.splits import RawData, stratified
from secateur.errors import BrokenImageWarning, RequestError
from secateur.extras import extra
from secateur.train.own import PARTS, TEST, part_named

LARGEST = 224
"""Side in pixels that larger images are scaled to where no size is asked for."""

IN_MEMORY = 1 << 30
"""Bytes up to which all images are held in memory; more are read from their files again and again."""

BROKEN = 0.05
"""Share of images that may be unreadable; they are left out and named."""

_TEST_SEED = 1797
_KINDS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
_LAYOUT = "put the images of each class in a folder of their own, with or without train, val and test above"


@dataclass(frozen=True)
class LabelledFile:
    """One image file.

    Attributes:
        path: The file.
        label: Its class.
        part: "train", "validation" or "test"; None where the data do not say.
    """

    path: Path
    label: str
    part: str | None = None


def listed_folder(folder: Path) -> list[LabelledFile]:
    """List the images of a folder with a folder for each class, or with such folders for each part.

    Raises:
        RequestError: The folder is laid out in another way.
    """
    inside = _folders(folder)
    if not inside:
        raise RequestError(f"{folder} has no folders of classes", do=_LAYOUT)
    parts = {name: part_named(name) for name in inside}
    if "train" not in parts.values() or None in parts.values():
        return list(_in_classes(folder, None))
    return [sample for name, part in parts.items() for sample in _in_classes(folder / name, part)]


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")


def _in_classes(folder: Path, part: str | None) -> Iterator[LabelledFile]:
    with extra("train", "data sets of images"):
        from torchvision.datasets import ImageFolder

    classes = {name: number for number, name in enumerate(_folders(folder))}
    if len(classes) < 2:
        held = f"it has {', '.join(classes) or 'none'}"
        raise RequestError(f"{folder} has fewer than two folders of classes", [held], _LAYOUT)
    names, empty = list(classes), set(classes)
    for path, number in ImageFolder.make_dataset(str(folder), classes, _KINDS, allow_empty=True):
        empty.discard(names[number])
        yield LabelledFile(Path(path), names[number], part)
    if empty:
        what = f"{folder} has no image of {', '.join(sorted(empty))}"
        raise RequestError(what, [f"images are files that end in {', '.join(_KINDS)}"], _LAYOUT)


def listed_table(path: Path) -> list[LabelledFile]:
    """List the images of a CSV file with the columns path, label and perhaps part.

    Raises:
        RequestError: A column is missing, or a line says nothing of use.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        if not {"path", "label"} <= set(columns) <= {"path", "label", "part"}:
            context = [f"its first line is {','.join(columns) or 'empty'}"]
            raise RequestError(
                f"{path} is no table of images", context, "let it begin with path,label[,part]"
            )
        reader.fieldnames = columns
        samples = [_of_line(path, reader.line_num, line) for line in reader]
    if not samples:
        raise RequestError(f"{path} lists no image", do="write a line for each image")
    if len({sample.part is None for sample in samples}) > 1:
        raise RequestError(f"{path} names the part of some images only", do="name it of all or of none")
    return samples


def _of_line(table: Path, number: int, line: Mapping[str, str | None]) -> LabelledFile:
    path, label, word = (str(line.get(name) or "").strip() for name in ("path", "label", "part"))
    part = part_named(word) if word else None
    if not path or not label or (word and part is None):
        known = ", ".join(PARTS)
        do = f"write a path, a label and, if there is a column for it, a part ({known})"
        raise RequestError(
            f"line {number} of {table} is {','.join(filter(None, (path, label, word)))}", do=do
        )
    return LabelledFile(table.parent / path, label, part)


def read_samples(
    name: str, samples: Sequence[LabelledFile], *, image_size: int | None = None, flip: bool = False
) -> RawData:
    """Read listed images.

    Args:
        name: What they are called, for messages.
        samples: What was listed.
        image_size: Height and width in pixels; None takes the median of the shorter sides, at most `LARGEST`.
        flip: Whether a mirrored image is still of its class.

    Raises:
        RequestError: Too many are broken, or a part has classes that are not trained.
    """
    sides, channels, broken = looked_at([sample.path for sample in samples])
    samples = _without(name, samples, broken)
    size = image_size or min(LARGEST, round(statistics.median(sides)))
    if size * size * channels * len(samples) <= IN_MEMORY:
        pixels: Pixels
        pixels, broken = _decoded(samples, channels, size)
        samples = _without(name, samples, broken)
    else:
        pixels = ImageFiles(tuple(sample.path for sample in samples), channels, size)
    train = [sample.label for sample in samples if sample.part in (None, "train")]
    classes = tuple(sorted(set(train), key=_natural))
    strange = sorted({sample.label for sample in samples} - set(classes))
    if strange or len(classes) < 2:
        what = f"{name} has images of {', '.join(strange)}, but none to train on" if strange else ""
        what = what or f"{name} has one class, {', '.join(classes)}"
        raise RequestError(what, do="give every class images to train on, and two classes at least")
    labels = torch.tensor([classes.index(sample.label) for sample in samples])
    places = {part: _places(samples, part) for part in PARTS} | {"any": _places(samples, None)}
    train_at = torch.cat([places["train"], places["any"]])
    test_at = places["test"]
    if not len(test_at):
        rest, drawn = stratified(labels[train_at], TEST, _TEST_SEED)
        train_at, test_at = train_at[rest], train_at[drawn]
    given = places["validation"]
    return RawData(
        only(pixels, train_at),
        labels[train_at],
        only(pixels, test_at),
        labels[test_at],
        class_names=classes,
        flip=flip,
        validation_pixels=only(pixels, given) if len(given) else None,
        validation_labels=labels[given] if len(given) else None,
    )


def _natural(label: str) -> tuple[int, str]:
    """Numbers in their order, before words."""
    return (int(label), "") if label.isdecimal() else (1 << 62, label)


def _places(samples: Sequence[LabelledFile], part: str | None) -> Tensor:
    return torch.tensor([at for at, one in enumerate(samples) if one.part == part], dtype=torch.int64)


def looked_at(paths: Iterable[Path]) -> tuple[list[int], int, dict[Path, str]]:
    """The shorter sides, 1 or 3 channels, and why files cannot be opened; only their first bytes are read."""
    with extra("train", "data sets of images"):
        from PIL import Image

    sides, grey, broken = [], True, {}
    for path in paths:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
                grey = grey and image.mode in ("L", "1", "I", "I;16", "F")
        except broken_image_errors() as error:
            broken[path] = what_is_broken(error).partition("\n")[0]
    return sides, 1 if grey else 3, broken


def _decoded(
    samples: Sequence[LabelledFile], channels: int, size: int
) -> tuple[UInt8[Tensor, "n c h w"], dict[Path, str]]:
    """All images that can be read, and why others cannot."""
    pixels, broken = [], {}
    for sample in samples:
        try:
            pixels.append(read_image(sample.path, channels, size))
        except RequestError as error:
            broken[sample.path] = str(error.what)
    return torch.stack(pixels) if pixels else torch.zeros(0, channels, size, size, dtype=torch.uint8), broken


def _without(name: str, samples: Sequence[LabelledFile], broken: Mapping[Path, str]) -> list[LabelledFile]:
    """Leave broken images out, and name them; too many are an error."""
    if not broken:
        return list(samples)
    named = [f"{path}: {why}" for path, why in list(broken.items())[:5]]
    if len(broken) > len(named):
        named.append(f"and {len(broken) - len(named)} more")
    what = f"{len(broken)} of {len(samples)} images of {name} cannot be read"
    if len(broken) > BROKEN * len(samples):
        raise RequestError(what, named, "mend or delete them, or correct the paths")
    warnings.warn("\n  ".join([f"{what} and are left out", *named]), BrokenImageWarning, stacklevel=4)
    return [sample for sample in samples if sample.path not in broken]
