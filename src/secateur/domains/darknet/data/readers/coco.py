"""COCO's JSON: `images`, `annotations` with `bbox` = (left, top, width, height) in pixels, `categories`.

The source is one file (`instances_val2017.json`) or the folder that holds `annotations/`. Category ids need
not be dense (COCO's 80 classes have ids up to 90): classes are numbered in the order of the ids. An
annotation with `iscrowd` is kept as an ignored box.

References:
    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; format: https://cocodataset.org/#format-data
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from secateur.domains.darknet.data.boxes import Annotations, BoxRows, LabelledImage, Problem
from secateur.domains.darknet.data.readers import formats
from secateur.domains.darknet.names import is_file
from secateur.errors import DataError

_Id = int | str
_Pixels = Annotated[float, Field(gt=0, lt=1e9)]


@dataclass(frozen=True, slots=True)
class _Image:
    id: _Id
    file_name: Annotated[str, Field(min_length=1)]
    width: _Pixels
    height: _Pixels


@dataclass(frozen=True, slots=True)
class _Category:
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: _Id
    category_id: int
    bbox: tuple[float, float, float, float]
    id: _Id | None = None
    iscrowd: bool | None = None


@dataclass(frozen=True, slots=True)
class _Instances:
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]


_FORMAT = TypeAdapter(_Instances)


@formats("coco")
def read_coco(source: Path, names: tuple[str, ...] | None) -> Annotations:
    """Read one JSON file, or the `instances_*.json` files of a data set's folder."""
    files = [source] if source.is_file() else _files(source)
    problems: list[Problem] = []
    loaded = {path: _load(path) for path in files}
    categories = {category.id: category.name for data in loaded.values() for category in data.categories}
    names = names or tuple(categories[key] for key in sorted(categories))
    numbers = {key: names.index(name) for key, name in categories.items() if name in names}
    parts: dict[str, tuple[LabelledImage, ...]] = {}
    for path, data in loaded.items():
        part = _part(path.stem)
        parts[part] = parts.get(part, ()) + _read(path, data, (numbers, set(categories)), problems)
    return Annotations(names, parts, tuple(problems), str(source))


def _files(folder: Path) -> list[Path]:
    inside = folder / "annotations" if (folder / "annotations").is_dir() else folder
    files = sorted(inside.glob("instances_*.json")) or sorted(inside.glob("*.json"))
    if not files:
        raise DataError(f"there is no JSON file in {inside}", do="pass the file of the annotations itself")
    return files


def _part(stem: str) -> str:
    parts = {"train": "train", "val": "valid", "test": "test"}
    return next((part for word, part in parts.items() if word in stem.lower()), "train")


def _load(path: Path) -> _Instances:
    try:
        return _FORMAT.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}", [str(error)], "pass a file that exists") from error
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        places = [f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in found[:5]]
        what, first = "is not of COCO's instances format", found[0]
        if first["type"] == "json_invalid":
            what = "is not JSON"
        elif len(first["loc"]) == 1:
            what = f"has no list '{first['loc'][0]}'"
        do = "pass a file with id, file_name, width, height, bbox"
        raise DataError(f"{path} {what}", places, do) from error


def _read(
    path: Path, data: _Instances, categories: tuple[dict[int, int], set[int]], problems: list[Problem]
) -> tuple[LabelledImage, ...]:
    numbers, known = categories
    images = {image.id: image for image in data.images}
    rows = {key: BoxRows(None, problems) for key in images}
    for annotation in data.annotations:
        where, key = f"{path}: annotation {annotation.id}", annotation.image_id
        label = annotation.category_id
        if key not in images:
            problems.append(Problem(where, f"there is no image {key}"))
        elif label not in known:
            problems.append(Problem(where, f"there is no category {label}"))
        elif label in numbers:
            left, top, width, height = annotation.bbox
            corners, size = (left, top, left + width, top + height), (images[key].height, images[key].width)
            rows[key].add_corners(where, numbers[label], corners, size, bool(annotation.iscrowd))
    root = _image_root(path, [image.file_name for image in images.values()])
    return tuple(
        LabelledImage(root / image.file_name, rows[key].labels(), image.file_name)
        for key, image in images.items()
    )


def _image_root(path: Path, file_names: list[str]) -> Path:
    """Find the folder of the images: beside the file, beside its folder, or in `images/` there."""
    name = path.stem.removeprefix("instances_")
    roots = (path.parent, path.parent.parent)
    candidates = [root / sub for sub in (name, f"images/{name}", "images", "") for root in roots]
    found = (c for c in candidates if file_names and is_file(c / file_names[0]))
    return next(found, candidates[1])
