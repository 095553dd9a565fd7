"""The one representation of labelled images, whatever file they came from.

A box is (centre x, centre y, width, height), each a share of the image's width or height from 0 to 1: the
numbers of a YOLO label file. Every reader in `formats/` makes `Annotations`, and everything else takes them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from secateur.domains.darknet.names import MOST_CLASSES, is_file
from secateur.errors import DataError, RequestError

# Label files hold six decimals, so an edge may stand out by a rounding; more than this is reported.
_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Labels:
    """The boxes of one image.

    Args:
        classes: Class of each box, from 0.
        boxes: Centre x, centre y, width and height as shares of the image.
        ignored: Boxes that are neither right nor wrong to find: VOC's `difficult`, COCO's `iscrowd`.

    Example:
        >>> labels = Labels.of([(3, (0.5, 0.5, 0.2, 0.4))])
        >>> labels.classes, labels.boxes
        (tensor([3]), tensor([[0.5000, 0.5000, 0.2000, 0.4000]]))
    """

    classes: Int64[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    ignored: Bool[Tensor, " n"]

    @classmethod
    def of(
        cls, rows: Sequence[tuple[int, Sequence[float]]], ignored: Sequence[bool] | None = None
    ) -> "Labels":
        """Make labels of rows (class, box); no row is an image without objects."""
        classes = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        boxes = torch.tensor([list(row[1]) for row in rows], dtype=torch.float32).reshape(-1, 4)
        flags = [False] * len(rows) if ignored is None else list(ignored)
        return cls(classes, boxes, torch.tensor(flags, dtype=torch.bool))

    @classmethod
    def together(cls, parts: Sequence["Labels"]) -> "Labels":
        """The boxes of several in one."""
        classes, boxes, ignored = zip(*((p.classes, p.boxes, p.ignored) for p in parts), strict=True)
        return cls(torch.cat(classes), torch.cat(boxes), torch.cat(ignored))

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, chosen: Tensor) -> "Labels":
        """Take some of the boxes, by index or mask."""
        return Labels(self.classes[chosen], self.boxes[chosen], self.ignored[chosen])


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image and its labels.

    Args:
        image: The file, or its pixels (channels, height, width), 0 to 255.
        labels: Its boxes.
        name: What the image is called in messages and in written data sets; the file's name unless given.
    """

    image: Path | UInt8[Tensor, "3 h w"]
    labels: Labels
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name and isinstance(self.image, Path):
            object.__setattr__(self, "name", self.image.name)

    def __str__(self) -> str:
        return str(self.image) if isinstance(self.image, Path) else self.name


@dataclass(frozen=True)
class Problem:
    """Something about an annotation that does not fit.

    Args:
        where: File and line ("labels/a.txt:3"), or file and object.
        what: What does not fit, with the value.
        fatal: Whether the label is unusable; otherwise it was mended, and `what` says how.
    """

    where: str
    what: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Annotations:
    """A whole data set: class names, and images with labels by part.

    Args:
        names: Name of each class.
        parts: The images of "train", "valid", "test"; which of them there are depends on the source.
        problems: What did not fit, in the order of reading.
        source: Where it was read from.
    """

    names: tuple[str, ...]
    parts: Mapping[str, tuple[LabelledImage, ...]]
    problems: tuple[Problem, ...] = ()
    source: str = "memory"

    def __getitem__(self, part: str) -> tuple[LabelledImage, ...]:
        if part not in self.parts:
            has = [f"it has: {', '.join(self.parts)}"]
            raise RequestError(f"{self.source} has no part '{part}'", has, "name a part that it has")
        return self.parts[part]

    def __str__(self) -> str:
        parts = [
            f"{len(samples):,} {part} ({sum(len(sample.labels) for sample in samples):,} boxes)"
            for part, samples in self.parts.items()
        ]
        return f"{self.source}: {' + '.join(parts)} images, {len(self.names)} classes"


@dataclass
class BoxRows:
    """The boxes of one image while a reader collects them; each is checked as it comes.

    Args:
        classes: Number of classes; None if any class number below `MOST_CLASSES` is allowed.
        problems: Where what does not fit is written to.
    """

    classes: int | None
    problems: list[Problem]
    rows: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)

    def add(self, where: str, label: int, box: Sequence[float], ignored: bool = False) -> None:
        """Take one box as shares of the image; one that does not fit becomes a `Problem` instead."""
        count = MOST_CLASSES if self.classes is None else self.classes
        if not 0 <= label < count:
            self.problems.append(Problem(where, f"class {str(label)[:20]} is not in 0..{count - 1}"))
            return
        what = _misfit(box)
        if what:
            self.problems.append(Problem(where, what))
            return
        clipped, out = _clip(box)
        if out > _ROUNDING:
            what = f"the box reaches {out:.1%} of the image's size out of the image: clipped"
            self.problems.append(Problem(where, what, fatal=False))
        self.rows.append((label, clipped))
        self.ignored.append(ignored)

    def add_corners(
        self,
        where: str,
        label: int,
        corners: Sequence[float],
        size: tuple[float, float],
        ignored: bool = False,
    ) -> None:
        """Take one box as left, top, right and bottom in pixels of an image of this height and width."""
        (left, top, right, bottom), (height, width) = corners, size
        x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
        self.add(where, label, (x, y, (right - left) / width, (bottom - top) / height), ignored)

    def labels(self) -> Labels:
        """Take all boxes that fitted."""
        return Labels.of(self.rows, self.ignored)


def _misfit(box: Sequence[float]) -> str:
    shown = " ".join(f"{value:g}" for value in box)
    if not all(math.isfinite(value) for value in box):
        return f"the box {shown} is not finite"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return f"the box {shown} has no area"
    if not (0 <= x <= 1 and 0 <= y <= 1):
        return f"the box {shown} has its centre outside of the image (shares from 0 to 1)"
    if width > 2 or height > 2:
        return f"the box {shown} is larger than the image (shares from 0 to 1)"
    return ""


def _clip(box: Sequence[float]) -> tuple[tuple[float, ...], float]:
    x, y, width, height = box
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
    out = max(abs(edge - inside) for edge, inside in zip(edges, (left, top, right, bottom), strict=True))
    if out == 0:
        return tuple(box), 0.0
    return ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), out


@dataclass(frozen=True)
class LabelReport:
    """What `check_labels` counted.

    Args:
        source: Where the labels come from.
        images: Images by part.
        backgrounds: Images without a box, by part.
        boxes: Boxes by class name, all parts together.
        warnings: What was mended or looks odd.
    """

    source: str
    images: dict[str, int]
    backgrounds: dict[str, int]
    boxes: dict[str, int]
    warnings: tuple[Problem, ...]

    def __str__(self) -> str:
        lines = [f"{self.source}: {sum(self.boxes.values()):,} boxes"]
        for part, count in self.images.items():
            lines.append(f"  {part}: {count:,} images, {self.backgrounds[part]:,} without a box")
        lines.append("  " + ", ".join(f"{name} {count:,}" for name, count in self.boxes.items()))
        shown = [f"  warning: {problem}" for problem in self.warnings[:20]]
        more = len(self.warnings) - len(shown)
        return "\n".join(lines + shown + ([f"  ... and {more:,} more warnings"] if more else []))


def check_labels(annotations: Annotations) -> LabelReport:
    """Refuse a data set that would spoil a training, before the training starts.

    Args:
        annotations: What a reader made.

    Returns:
        Counts, and what was mended.

    Raises:
        DataError: A label that does not fit its classes or its image, a part without images, a part whose
            images are all missing, or no box in the first part; all are named by file and line.

    Example:
        >>> pixels, labels = torch.zeros(3, 8, 8, dtype=torch.uint8), Labels.of([(0, (0.5, 0.5, 1, 1))])
        >>> sample = LabelledImage(pixels, labels, "dot")
        >>> print(check_labels(Annotations(("dot",), {"train": (sample,)})))
        memory: 1 boxes
          train: 1 images, 0 without a box
          dot 1
    """
    fatal = [problem for problem in annotations.problems if problem.fatal]
    if fatal:
        what = f"{len(fatal):,} labels of {annotations.source} do not fit"
        raise DataError(
            what, map(str, fatal), "mend these lines, or read with strict=False to leave them out"
        )
    warnings = [problem for problem in annotations.problems if not problem.fatal]
    for part, samples in annotations.parts.items():
        warnings += _check_part(f"{annotations.source}, part {part}", samples)
    counts = Counter(int(c) for part in annotations.parts.values() for s in part for c in s.labels.classes)
    absent = [name for index, name in enumerate(annotations.names) if not counts[index]]
    if absent:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        what = f"no box of class {shown}"
        warnings.append(Problem(annotations.source, what, fatal=False))
    return LabelReport(
        annotations.source,
        {part: len(samples) for part, samples in annotations.parts.items()},
        {part: sum(not len(s.labels) for s in samples) for part, samples in annotations.parts.items()},
        {name: counts[index] for index, name in enumerate(annotations.names)},
        tuple(warnings),
    )


def _check_part(where: str, samples: Sequence[LabelledImage]) -> list[Problem]:
    if not samples:
        raise DataError(f"{where} has no images", do="check the list file or the folder of images")
    if not any(len(sample.labels) for sample in samples):
        do = "check that the label files lie where the labels of these images are looked for"
        raise DataError(f"none of the {len(samples):,} images of {where} has a box", do=do)
    missing = [str(s.image) for s in samples if isinstance(s.image, Path) and not is_file(s.image)]
    if len(missing) == len(samples):
        do = "list paths that are absolute or relative to the list file"
        raise DataError(f"all {len(missing):,} images of {where} are missing", missing, do)
    return [Problem(path, "the image is missing and will be left out", fatal=False) for path in missing]
