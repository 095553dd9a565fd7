"""Pascal VOC's XML: a file an image in `Annotations/`, images in `JPEGImages/`, lists in `ImageSets/Main/`.

VOC counts pixels from 1 and includes the last one, so a box covers (xmin - 1, xmax) of the image. An object
marked `difficult` is kept as an ignored box.

References:
    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 88, 2010.
    http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/
"""

import xml.etree.ElementTree as ET
from pathlib import Path

from secateur.domains.darknet.data.boxes import Annotations, BoxRows, LabelledImage, Problem
from secateur.domains.darknet.data.readers import formats
from secateur.domains.darknet.data.readers.yolo import lines_of
from secateur.domains.darknet.names import is_file
from secateur.errors import DataError

_LISTS = {"train": "train", "val": "valid", "test": "test"}

_Object = tuple[str, str, tuple[float, ...], tuple[float, float], bool]
"""Where it stands, its name, its edges in pixels, the image's height and width, whether it is difficult."""


@formats("voc")
def read_voc(source: Path, names: tuple[str, ...] | None) -> Annotations:
    """Read a folder with `Annotations/`, or one that holds only XML files.

    Without names, the classes are all that occur, in alphabetical order; with names, others are left out.
    """
    folder = source / "Annotations" if (source / "Annotations").is_dir() else source
    files = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    if not files:
        do = "pass the folder that holds Annotations/ and JPEGImages/"
        raise DataError(f"there is no XML file in {folder}", do=do)
    problems: list[Problem] = []
    read = {stem: _read(path, problems) for stem, path in files.items()}
    names = names or tuple(sorted({name for _, found in read.values() for _, name, *_ in found}))
    samples = {}
    for stem, (image, found) in read.items():
        rows = BoxRows(len(names), problems)
        for where, name, edges, size, is_difficult in found:
            if name in names:
                rows.add_corners(where, names.index(name), edges, size, is_difficult)
        samples[stem] = LabelledImage(_image_path(source, files[stem], image), rows.labels())
    return Annotations(names, _parts(source, samples), tuple(problems), str(source))


def _read(path: Path, problems: list[Problem]) -> tuple[str, list[_Object]]:
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, OSError, LookupError, ValueError) as error:  # an encoding may be unknown, too
        # The parser's message holds line and column.
        problems.append(Problem(str(path), f"not XML: {error}"))
        return path.stem, []
    objects = []
    width, height = _number(root, "size/width"), _number(root, "size/height")
    if not (width > 0 and height > 0):
        problems.append(Problem(str(path), "there is no size of the image (size/width, size/height)"))
        return _text(root, "filename") or path.stem, []
    for index, entry in enumerate(root.iter("object"), 1):
        where, name = f"{path}: object {index}", _text(entry, "name")
        edges = [_number(entry, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        if not name:
            problems.append(Problem(where, "it has no name"))
            continue
        box: tuple[float, ...] = (edges[0] - 1, edges[1] - 1, edges[2], edges[3])
        objects.append((where, name, box, (height, width), _text(entry, "difficult") == "1"))
    return _text(root, "filename") or path.stem, objects


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: ET.Element, path: str) -> float:
    try:
        return float(_text(element, path))
    except ValueError:
        return float("nan")  # the check of the box says so, with the file and the object


def _image_path(source: Path, xml: Path, file_name: str) -> Path:
    """Find the image: what the XML says, else one of the XML's own name."""
    for folder in (source / "JPEGImages", source / "images", xml.parent):
        for name in (Path(file_name).name, f"{xml.stem}.jpg", f"{xml.stem}.png"):
            if name and is_file(folder / name):
                return folder / name
    return source / "JPEGImages" / (Path(file_name).name if Path(file_name).suffix else f"{xml.stem}.jpg")


def _parts(source: Path, samples: dict[str, LabelledImage]) -> dict[str, tuple[LabelledImage, ...]]:
    parts = {}
    for list_name, part in _LISTS.items():
        path = source / "ImageSets" / "Main" / f"{list_name}.txt"
        if path.is_file():
            listed = [(number, line.split()[0]) for number, line in lines_of(path)]
            missing = [f"{path}:{number}: {stem[:60]}" for number, stem in listed if stem not in samples]
            if missing:
                what = f"{len(missing)} images of {path} have no XML file"
                raise DataError(what, missing, "add the XML files, or take the lines out of the list")
            parts[part] = tuple(samples[stem] for _, stem in listed)
    return parts or {"train": tuple(samples.values())}
