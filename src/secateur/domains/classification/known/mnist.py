"""MNIST and Fashion-MNIST: 70,000 grey images of 28x28 pixels in four IDX files.

References:
    LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998.
    Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017. https://arxiv.org/abs/1708.07747
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from secateur.domains.classification.idx import read_idx
from secateur.domains.classification.known import datasets
from secateur.domains.classification.splits import RawData
from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.extras import extra

# Where packages of the operating system put data sets (Debian: dataset-fashion-mnist).
_SYSTEM = Path("/usr/share/datasets")

_DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@datasets("mnist")
def read_mnist(data_dir: Path | None, download: bool) -> RawData:
    """Read MNIST's IDX files from a folder or its torchvision layout (`MNIST/raw`)."""
    return _read("mnist", "MNIST", _DIGITS, False, (data_dir, download))


@datasets("fashion-mnist")
def read_fashion_mnist(data_dir: Path | None, download: bool) -> RawData:
    """Read Fashion-MNIST's IDX files; without a folder, those of Debian's `dataset-fashion-mnist`."""
    return _read("fashion-mnist", "FashionMNIST", _CLOTHES, True, (data_dir, download))


def _read(
    name: str, torchvision_name: str, class_names: Sequence[str], flip: bool, source: tuple[Path | None, bool]
) -> RawData:
    data_dir, download = source
    if download:
        _download(torchvision_name, data_dir)
    folder = _find(name, torchvision_name, data_dir)
    pixels, labels = _read_part(folder, "train", len(class_names))
    test_pixels, test_labels = _read_part(folder, "t10k", len(class_names))
    return RawData(pixels, labels, test_pixels, test_labels, tuple(class_names), flip)


def _download(torchvision_name: str, data_dir: Path | None) -> None:
    if data_dir is None:
        raise RequestError("download was asked for, but no data folder", do="pass --data-dir (data_dir=...)")
    with extra("train", "data sets of images"):
        from torchvision import datasets as torchvision_datasets

    try:
        getattr(torchvision_datasets, torchvision_name)(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        do = "check the network connection, or put the four IDX files there yourself"
        raise SecateurError(f"cannot download {torchvision_name} to {data_dir}", [str(error)], do) from error


def _find(name: str, torchvision_name: str, data_dir: Path | None) -> Path:
    """Find the folder that has the training images, or say where it was looked for."""
    root = _SYSTEM if data_dir is None else data_dir
    if data_dir is not None and not data_dir.is_dir():
        do = f"pass the folder with {name}'s IDX files as --data-dir"
        raise RequestError(f"there is no data folder {data_dir}", do=do)
    places = [root / name, root / torchvision_name / "raw"] + ([root] if data_dir is not None else [])
    for place in places:
        if _file(place, "train-images-idx3-ubyte") is not None:
            return place
    searched = [f"no train-images-idx3-ubyte(.gz) in {place}" for place in places]
    debian = " or install Debian's dataset-fashion-mnist" if name == "fashion-mnist" else ""
    do = f"pass the folder with {name}'s four IDX files as --data-dir, or add --download{debian}"
    raise RequestError(f"{name} is not in {root}", searched, do)


def _file(folder: Path, stem: str) -> Path | None:
    """Find `stem` plain, compressed, or with the dot that some archives put in its name."""
    names = [stem, f"{stem}.gz", stem.replace("-idx", ".idx")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_part(
    folder: Path, part: str, num_classes: int
) -> tuple[UInt8[Tensor, "n 1 h w"], Int64[Tensor, " n"]]:
    arrays = []
    for stem in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        path = _file(folder, stem)
        if path is None:
            raise RequestError(f"{folder} lacks {stem}(.gz)", do="put all four IDX files in one folder")
        arrays.append(torch.from_numpy(read_idx(path).copy()))
    pixels, labels = arrays[0], arrays[1].long()
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        shapes = [f"images {list(pixels.shape)}, labels {list(labels.shape)}"]
        raise CheckpointError(
            f"the {part} files of {folder} do not belong together", shapes, "get them again"
        )
    if len(labels) == 0 or labels.max() >= num_classes:
        found = f"labels 0..{labels.max().item()}" if len(labels) else "no images"
        do = f"expected {num_classes} classes: is it another data set?"
        raise CheckpointError(f"{folder} has {found} in its {part} files", do=do)
    return pixels[:, None], labels
