"""COCO's JSON: `images`, `annotations` with `bbox` = (left, top, width, height) in pixels, `categories`.

The source is one file (`instances_val2017.json`) or the folder that holds `annotations/`. Category ids need
not be dense (COCO's 80 classes have ids up to 90): classes are numbered in the order of the ids. An
annotation with `iscrowd` is kept as an ignored box.

References:
    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; format: https://cocodataset.org/#format-data
"""

import json
from pathlib import Path
from typing import Any

from secateur.domains.darknet.data.boxes import Annotations, Problem, Rows, Sample
from secateur.domains.darknet.data.readers import formats
from secateur.errors import DataError


@formats("coco")
def read_coco(source: Path, names: tuple[str, ...] | None) -> Annotations:
    """Read one JSON file, or the `instances_*.json` files of a data set's folder."""
    files = [source] if source.is_file() else _files(source)
    problems: list[Problem] = []
    loaded = {path: _load(path) for path in files}
    categories = {
        int(category["id"]): str(category["name"])
        for data in loaded.values()
        for category in data["categories"]
    }
    names = names or tuple(categories[key] for key in sorted(categories))
    numbers = {key: names.index(name) for key, name in categories.items() if name in names}
    parts: dict[str, tuple[Sample, ...]] = {}
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


def _load(path: Path) -> dict[str, Any]:
    do = "pass a file of COCO's instances format"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not JSON", [str(error)], do) from error
    needed = ("images", "annotations", "categories")
    missing = [key for key in needed if not isinstance(data, dict) or not isinstance(data.get(key), list)]
    if missing:
        raise DataError(f"{path} has no list '{missing[0]}'", do=do)
    return data


def _read(
    path: Path, data: dict[str, Any], categories: tuple[dict[int, int], set[int]], problems: list[Problem]
) -> tuple[Sample, ...]:
    numbers, known = categories
    try:
        images = {image["id"]: image for image in data["images"]}
        rows = {key: Rows(None, problems) for key in images}
        for annotation in data["annotations"]:
            where, key = f"{path}: annotation {annotation.get('id')}", annotation["image_id"]
            label = annotation["category_id"]
            if key not in images:
                problems.append(Problem(where, f"there is no image {key}"))
            elif label not in known:
                problems.append(Problem(where, f"there is no category {label}"))
            elif label in numbers:
                left, top, width, height = annotation["bbox"]
                w, h = images[key]["width"], images[key]["height"]
                box = ((left + width / 2) / w, (top + height / 2) / h, width / w, height / h)
                rows[key].add(where, numbers[label], box, bool(annotation.get("iscrowd")))
        root = _image_root(path, [image["file_name"] for image in images.values()])
        return tuple(
            Sample(root / image["file_name"], rows[key].labels(), image["file_name"])
            for key, image in images.items()
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"{path} is not of COCO's instances format"
        detail = f"{type(error).__name__}: {error}"
        raise DataError(what, [detail], "pass a file with id, file_name, width, height, bbox") from error


def _image_root(path: Path, file_names: list[str]) -> Path:
    """Find the folder of the images: beside the file, beside its folder, or in `images/` there."""
    name = path.stem.removeprefix("instances_")
    roots = (path.parent, path.parent.parent)
    candidates = [root / sub for sub in (name, f"images/{name}", "images", "") for root in roots]
    found = (c for c in candidates if file_names and (c / file_names[0]).is_file())
    return next(found, candidates[1])
