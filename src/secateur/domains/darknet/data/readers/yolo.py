"""Darknet's own labels: a text file an image, a line a box: `class x y width height`, shares of the image.

A data set starts from a `.data` file (`classes`, `train`, `valid`, `names`), from a list of images
(`train.txt`), or from a folder with `images/` and `labels/`. The label file of `.../images/a.jpg` is
`.../labels/a.txt` (the last folder called `images` or `JPEGImages` counts); without such a folder, or if only
that one exists, it is `a.txt` beside the image. For relative paths see `names.py`.
"""

from collections.abc import Iterator
from pathlib import Path

from secateur.domains.darknet.data.boxes import Annotations, BoxRows, LabelledImage, Problem
from secateur.domains.darknet.data.images import IMAGE_SUFFIXES
from secateur.domains.darknet.data.readers import formats
from secateur.domains.darknet.names import is_file, is_there, read_data, read_names, resolve
from secateur.errors import DataError

_PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


@formats("yolo")
def read_yolo(source: Path, names: tuple[str, ...] | None) -> Annotations:
    """Read a `.data` file, a list file or a folder."""
    if source.is_dir():
        data = sorted(source.glob("*.data"))
        if len(data) != 1:
            return _read_parts(source, names or _names_in(source), _folder_parts(source))
        source = data[0]
    if source.suffix == ".data":
        file = read_data(source)
        options = file.values
        chosen = names or (
            tuple(read_names(resolve(options["names"], source))) if "names" in options else None
        )
        parts = {
            part: _listed(resolve(options[key], source))
            for key, part in _PARTS.items()
            if key in options and part
        }
        if not parts:
            do = "add a line such as train = train.txt"
            raise DataError(f"{source} names no list of images", [f"it has: {', '.join(options)}"], do)
        declared = file.classes if options.get("classes") else None
        if chosen is None and declared is not None:
            chosen = tuple(map(str, range(declared)))
        if chosen is not None and declared not in (None, len(chosen)):
            what = f"{source} says classes = {declared}, but there are {len(chosen)} names"
            raise DataError(what, do="make classes the number of lines of the names file")
        return _read_parts(source, chosen, parts)
    part = _PARTS.get(source.stem, source.stem)
    return _read_parts(source, names or _names_in(source.parent), {part: _listed(source)})


def label_path(image: Path) -> Path:
    """Find the label file of an image.

    Example:
        >>> label_path(Path("hands/images/train/a.jpg")).as_posix()
        'hands/labels/train/a.txt'
        >>> label_path(Path("hands/a.jpg")).as_posix()
        'hands/a.txt'
    """
    beside = image.with_suffix(".txt")
    folders = list(beside.parts[:-1])
    for index in reversed(range(len(folders))):
        if folders[index] in {"images", "JPEGImages"}:
            folders[index] = "labels"
            there = Path(*folders, beside.name)
            return beside if is_file(beside) and not is_file(there) else there
    return beside


def lines_of(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers.

    Raises:
        DataError: It cannot be read, or is no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}", [str(error)], "pass a text file that exists") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _listed(path: Path) -> list[Path]:
    if is_there(path) and path.is_dir():
        return _images(path)
    found = []
    for number, line in lines_of(path):
        image = resolve(line, path)
        if not image.name or "\0" in line:
            what = f"{path}:{number}: '{line[:60]}' names no image"
            raise DataError(what, do="write the path of one image a line")
        found.append(image)
    return found


def _images(folder: Path) -> list[Path]:
    if folder.resolve().parent == folder.resolve():
        what = f"{folder} is the whole file system"
        raise DataError(what, do="name the folder of the images")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _folder_parts(folder: Path) -> dict[str, list[Path]]:
    root = folder / "images" if (folder / "images").is_dir() else folder
    found = {_PARTS[sub.name]: _images(sub) for sub in sorted(root.iterdir()) if sub.name in _PARTS}
    parts = found or {"train": _images(root)}
    if not any(parts.values()):
        known = f"looked for {', '.join(IMAGE_SUFFIXES)} in {root}"
        raise DataError(f"there are no images in {folder}", [known], "pass a folder with images/ and labels/")
    return {part: parts[part] for part in ("train", "valid", "test") if part in parts}


def _names_in(folder: Path) -> tuple[str, ...] | None:
    found = [*sorted(folder.glob("*.names")), *folder.glob("classes.txt")]
    return tuple(read_names(found[0])) if len(found) == 1 else None


def _read_parts(source: Path, names: tuple[str, ...] | None, parts: dict[str, list[Path]]) -> Annotations:
    problems: list[Problem] = []
    made = {
        part: tuple(_read_part(source, images, None if names is None else len(names), problems))
        for part, images in parts.items()
    }
    if names is None:
        largest = max((int(c) for part in made.values() for s in part for c in s.labels.classes), default=-1)
        names = tuple(str(index) for index in range(largest + 1))
        problems.append(Problem(str(source), "there are no class names, so classes are numbers", fatal=False))
    return Annotations(names, made, tuple(problems), str(source))


def _read_part(
    source: Path, images: list[Path], classes: int | None, problems: list[Problem]
) -> Iterator[LabelledImage]:
    unlabelled = []
    for image in images:
        path, rows = label_path(image), BoxRows(classes, problems)
        if is_file(path):
            _read_label(path, rows)
        else:
            unlabelled.append(path)
        yield LabelledImage(image, rows.labels())
    if images and len(unlabelled) == len(images):
        do = "put a .txt file of each image in the labels folder beside images, or beside the image"
        looked = [f"looked for {path}" for path in unlabelled[:3]]
        raise DataError(f"none of the {len(images):,} images of {source} has a label file", looked, do)
    if unlabelled:
        what = f"{len(unlabelled):,} images have no label file (the first would be {unlabelled[0]}): no boxes"
        problems.append(Problem(str(source), what, fatal=False))


def _read_label(path: Path, rows: BoxRows) -> None:
    seen: set[str] = set()
    for number, line in lines_of(path):
        where, words = f"{path}:{number}", line.split()
        try:
            if len(words) != 5:
                raise ValueError
            label, box = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            rows.problems.append(Problem(where, f"'{line[:60]}' is not: class x y width height"))
            continue
        if line in seen:
            rows.problems.append(Problem(where, "the same box stands here twice: left out once", fatal=False))
            continue
        seen.add(line)
        rows.add(where, label, box)
