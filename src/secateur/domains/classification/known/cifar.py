"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels, read by torchvision.

Their archives are pickles. torchvision knows the MD5 checksum of each file and compares it before it
unpickles anything, so only the authors' files are ever executed; a foreign or truncated file is refused.

References:
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    https://www.cs.toronto.edu/~kriz/cifar.html
"""

from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from secateur.domains.classification.known import datasets
from secateur.domains.classification.splits import RawData
from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.extras import extra


@datasets("cifar10")
def read_cifar10(data_dir: Path | None, download: bool) -> RawData:
    """Read CIFAR-10 from `data_dir/cifar-10-batches-py`."""
    return _read("CIFAR10", data_dir, download)


@datasets("cifar100")
def read_cifar100(data_dir: Path | None, download: bool) -> RawData:
    """Read CIFAR-100 from `data_dir/cifar-100-python`."""
    return _read("CIFAR100", data_dir, download)


def _read(torchvision_name: str, data_dir: Path | None, download: bool) -> RawData:
    with extra("train", "data sets of images"):
        from torchvision import datasets as torchvision_datasets

    dataset = getattr(torchvision_datasets, torchvision_name)
    if data_dir is None:
        do = f"pass --data-dir, the folder that holds {dataset.base_folder}"
        raise RequestError(f"{torchvision_name} needs a data folder", do=do)
    folder = data_dir / dataset.base_folder
    if not folder.is_dir() and not download:
        do = f"pass the folder that holds {dataset.base_folder} as --data-dir, or add --download"
        raise RequestError(f"there is no folder {folder}", do=do)
    try:
        train, test = dataset(data_dir, train=True, download=download), dataset(data_dir, train=False)
    except OSError as error:
        do = "check the network connection and the disk, or put the unpacked archive there yourself"
        raise SecateurError(f"cannot get {torchvision_name} in {data_dir}", [str(error)], do) from error
    except RuntimeError as error:
        checked = "a file is missing, truncated, or does not have the checksum that torchvision knows"
        do = f"delete {folder} and unpack the archive again, or add --download"
        raise CheckpointError(f"{folder} is not {torchvision_name}", [checked], do) from error
    (pixels, labels), (test_pixels, test_labels) = _tensors(train), _tensors(test)
    return RawData(pixels, labels, test_pixels, test_labels, tuple(train.classes), flip=True)


def _tensors(dataset: object) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    data, targets = dataset.data, dataset.targets  # type: ignore[attr-defined]
    return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(), torch.tensor(targets)
