"""Any annotation format to Darknet's: label files, lists of images, names and the `.data` file.

    to/
      NAME.data  NAME.names  train.txt  valid.txt
      images/train/*.jpg     labels/train/*.txt

All paths inside are relative to the folder: our reader finds them from anywhere, Darknet when it is started
there. NAME is the folder's name.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secateur.domains.darknet.data.boxes import Annotations, LabelledImage, Labels, Problem
from secateur.domains.darknet.data.readers import read
from secateur.domains.darknet.names import is_file, write_data, write_names
from secateur.errors import RequestError
from secateur.extras import Later
from secateur.write.atomic import atomic_write

functional = Later("torchvision.transforms.v2.functional")

Images = Literal["link", "copy"]


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote.

    Args:
        folder: Where.
        data: The `.data` file.
        images: Images written, by part.
        boxes: Boxes written, by part.
        dropped: Difficult and crowd boxes that were left out.
        missing: Images that are missing and were left out.
        problems: Labels that were mended or (not strict) left out.
    """

    folder: Path
    data: Path
    images: dict[str, int]
    boxes: dict[str, int]
    dropped: int
    missing: tuple[str, ...]
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        lines = [f"wrote {self.data}"]
        for part, count in self.images.items():
            lines.append(f"  {part}: {count:,} images, {self.boxes[part]:,} boxes")
        if self.dropped:
            lines.append(f"  left out: {self.dropped:,} difficult or crowd boxes")
        if self.missing:
            lines.append(f"  left out: {len(self.missing):,} missing images, the first is {self.missing[0]}")
        lines += [f"  {'left out' if p.fatal else 'warning'}: {p}" for p in self.problems[:10]]
        if len(self.problems) > 10:
            lines.append(f"  ... and {len(self.problems) - 10:,} more")
        return "\n".join(lines)


def convert(
    source: Path | str,
    format: str,
    to: Path | str,
    *,
    names: tuple[str, ...] | None = None,
    images: Images = "link",
    keep_ignored: bool = False,
    strict: bool = True,
) -> Conversion:
    """Write a data set of any format as Darknet reads it.

    Args:
        source: The file or folder of the data set.
        format: A registered name: "coco", "voc", "oxford-hand", "yolo".
        to: The folder to write; it must be empty or new.
        names: The classes to take, in this order; None takes all.
        images: "link" makes symbolic links to the images, "copy" copies them.
        keep_ignored: Write difficult and crowd boxes too, as Darknet's format cannot mark them.
        strict: Refuse labels that do not fit; else leave them out and report them.

    Returns:
        What was written and what was left out; it prints well.

    Raises:
        RequestError: No such source, an unknown format, or a folder that is not empty.
        DataError: Labels do not fit, see `secateur.domains.darknet.data.check_labels`.
    """
    folder = Path(to)
    if images not in ("link", "copy"):
        raise RequestError(f"images is '{images}'", ["allowed: link, copy"], "pass images='link'")
    _require_empty(folder)
    annotations = read(source, format, names=names, strict=strict)
    return write_yolo(annotations, folder, images=images, keep_ignored=keep_ignored)


def write_yolo(
    annotations: Annotations, folder: Path, *, images: Images = "copy", keep_ignored: bool = False
) -> Conversion:
    """Write annotations as label files, lists, names and a `.data` file; images in memory become PNG files.

    Args:
        annotations: What to write.
        folder: Where; it must be empty or new.
        images: "link" or "copy", for images that are files.
        keep_ignored: Write difficult and crowd boxes too.

    Returns:
        What was written and what was left out.

    Raises:
        RequestError: The folder is not empty.
    """
    _require_empty(folder)
    missing: list[str] = []
    counts: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    dropped = 0
    for part, samples in annotations.parts.items():
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        absent = [isinstance(s.image, Path) and not is_file(s.image) for s in samples]
        missing += [str(s.image) for s, gone in zip(samples, absent, strict=True) if gone]
        present = [s for s, gone in zip(samples, absent, strict=True) if not gone]
        listed = []
        for sample, name in zip(present, _unique_names(present), strict=True):
            labels = sample.labels if keep_ignored else sample.labels[~sample.labels.ignored]
            dropped += len(sample.labels) - len(labels)
            boxes[part] += len(labels)
            _write_image(sample, folder / "images" / part / name, images)
            (folder / "labels" / part / name).with_suffix(".txt").write_text(label_text(labels))
            listed.append(f"images/{part}/{name}\n")
        counts[part] = len(listed)
        atomic_write(folder / f"{part}.txt", "".join(listed).encode())
    data = _write_heads(folder, annotations)
    return Conversion(folder, data, dict(counts), dict(boxes), dropped, tuple(missing), annotations.problems)


def label_text(labels: Labels) -> str:
    r"""Write boxes as the lines of a YOLO label file, six decimals.

    Example:
        >>> label_text(Labels.of([(3, (0.5, 0.5, 0.25, 0.5))]))
        '3 0.500000 0.500000 0.250000 0.500000\n'
    """
    rows = zip(labels.classes.tolist(), labels.boxes.tolist(), strict=True)
    return "".join(f"{label} {' '.join(f'{value:.6f}' for value in box)}\n" for label, box in rows)


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} is not an empty folder", do="pass a new folder, or empty this one")


def _unique_names(samples: Sequence[LabelledImage]) -> list[str]:
    """Name the files: two images whose names differ only in folder or suffix would share a label file."""
    taken: set[str] = set()
    names = []
    for sample in samples:
        path = Path(sample.name).name
        stem, suffix = Path(path).stem, Path(path).suffix if isinstance(sample.image, Path) else ".png"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(f"{name}{suffix}")
    return names


def _write_image(sample: LabelledImage, path: Path, images: Images) -> None:
    if not isinstance(sample.image, Path):
        functional.to_pil_image(sample.image).save(path, compress_level=1)
    elif images == "link":
        path.symlink_to(sample.image.resolve())
    else:
        shutil.copyfile(sample.image, path)


def _write_heads(folder: Path, annotations: Annotations) -> Path:
    """Write the names and, last of all, the `.data` file: it is there only if everything else is."""
    name = folder.resolve().name
    write_names(annotations.names, folder / f"{name}.names")
    values: dict[str, object] = {"classes": len(annotations.names)}
    values |= {part: f"{part}.txt" for part in annotations.parts}
    return write_data(values | {"names": f"{name}.names", "backup": "backup"}, folder / f"{name}.data")
