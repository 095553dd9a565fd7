"""What a word after `--data` stands for: a known set, images of one's own, or a function in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.domains.classification.files import listed_folder, listed_table, read_samples
from secateur.domains.classification.known import datasets
from secateur.domains.classification.splits import RawData
from secateur.errors import RequestError
from secateur.train.parts import DatasetPart, Part, Parts

WAYS = (
    "a folder with a folder of images for each class: --data ./mydata",
    "a CSV file with the columns path,label and perhaps part: --data mydata.csv",
    "a function that returns datasets of PyTorch: --data file.py:function",
)


def read_word(
    word: str, data_dir: Path | None, download: bool, image_size: int | None = None, flip: bool | None = None
) -> RawData:
    """Read the images that a word names.

    Args:
        word: A known set, a folder, or a CSV file.
        data_dir: Of a known set.
        download: Likewise.
        image_size: Of the user's own images.
        flip: Whether a mirrored image is still of its class; None asks the data set, and of images of the
            user's own nobody knows, so they are not mirrored.

    Raises:
        RequestError: The word names nothing, or what it names is not as it should be.
    """
    path = Path(word)
    own = None
    if word not in datasets and path.is_dir():
        own = listed_folder(path)
    elif path.suffix.lower() == ".csv":
        if not path.is_file():
            raise RequestError(
                f"there is no file {path}", do=f"check the path; it is looked for in {Path.cwd()}"
            )
        own = listed_table(path)
    if own is not None:
        return read_samples(word, own, image_size=image_size, flip=bool(flip))
    if "/" in word or word.startswith("."):
        do = f"check the path; it is looked for in {Path.cwd()}"
        raise RequestError(f"there is no folder {word}", ["data are named in one of these ways:", *WAYS], do)
    try:
        raw = datasets[word](data_dir, download)
    except RequestError as error:
        if word in datasets:
            raise
        raise RequestError(error.what, [*error.context, "or", *WAYS], error.do) from None
    return raw if flip is None else RawData(**{**vars(raw), "flip": flip})


@dataclass(frozen=True)
class LabelledPart(DatasetPart):
    """A dataset of PyTorch whose samples are pairs of an input and a class.

    Attributes:
        class_names: One name for each class.
    """

    class_names: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def num_classes(self) -> int:
        """Number of different labels."""
        return len(self.class_names)


def labelled_parts(parts: Parts) -> Parts:
    """Let the parts of the user's own know how many classes there are.

    Args:
        parts: Of samples that are pairs of an input and a class; `details["class names"]` may name them.

    Raises:
        RequestError: A sample is no such pair.

    Example:
        >>> import torch
        >>> from secateur.train.own import as_parts
        >>> pairs = torch.utils.data.TensorDataset(torch.zeros(50, 3), torch.arange(50) % 4)
        >>> labelled_parts(as_parts("pairs", pairs)).train.num_classes
        4
    """
    if all(hasattr(part, "num_classes") for part in (parts.train, parts.validation, parts.test)):
        return parts
    names = tuple(map(str, parts.details.get("class names", ()))) or _class_names(parts)
    found: Mapping[str, Part] = {
        name: LabelledPart(part.dataset, part.collate, class_names=names)
        for name in ("train", "validation", "test")
        if isinstance(part := getattr(parts, name), DatasetPart)
    }
    if len(found) < 3:
        what = f"{parts.name} holds parts that do not know how many classes there are"
        raise RequestError(what, do="give them num_classes, or return datasets of PyTorch")
    return Parts(parts.name, **found, details={**parts.details, "class names": names})


def _class_names(parts: Parts) -> tuple[str, ...]:
    """The classes that a dataset names, or else as many as the largest label of the training part says."""
    dataset: Any = getattr(parts.train, "dataset", None)
    while dataset is not None:
        named = getattr(dataset, "classes", None)
        if isinstance(named, (list, tuple)) and named:
            return tuple(map(str, named))
        dataset = getattr(dataset, "dataset", None)
    largest = -1
    for batch in parts.train.batches(256):
        labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
            told = f"{list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise RequestError(
                f"{parts.name} yields no class beside each input, but {told}",
                ["the task is classification, its samples are pairs of an input and the number of a class"],
                "name another task with --task, or let the dataset return (input, class)",
            )
        largest = max(largest, int(labels.max()))
    return tuple(map(str, range(largest + 1)))
