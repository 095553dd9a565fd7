"""What the verbs of `secateur darknet` share: networks and data sets by their words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from secateur.domains.darknet import Darknet, load_darknet, save_darknet
from secateur.domains.darknet.data import Annotations, Loader, digit_scenes, loader, read
from secateur.domains.darknet.layers import input_place
from secateur.errors import RequestError
from secateur.train.device import choose_device


@dataclass(frozen=True)
class NetworkOptions:
    """The network that a command starts from.

    Attributes:
        cfg: A .cfg file, a bundled name (digits, yolov3, yolov3-spp, yolov3-tiny, yolov4, yolov4-tiny), or a
            folder with one .cfg and its .weights.
        weights: The .weights file.
    """

    cfg: Annotated[str, typer.Argument(metavar="CFG")]
    weights: Path | None = None

    def open(self, device: str, *, seed: int = 0, needs_weights: bool = True) -> Darknet:
        """Open the network on a device."""
        return open_network(self.cfg, self.weights, device, seed=seed, needs_weights=needs_weights)


@dataclass(frozen=True)
class SceneOptions:
    """A data set of boxes.

    Attributes:
        data: digits (bundled scenes), a .data file, or what --format reads: a file or folder.
        format: Format of --data: yolo, coco, voc or oxford-hand.
        images: For --data digits: training and validation scenes, with a comma.
        size: Input in pixels, such as 416 or 320x416 (height x width); default: the cfg's.
        seed: Seed of everything that is drawn.
    """

    data: str = "digits"
    format: str = "yolo"
    images: str = "1000,250"
    size: str | None = None
    seed: int = 0

    def open(self, size: tuple[int, int]) -> Annotations:
        """Read or draw the data set.

        Args:
            size: Height and width of the network's input: scenes are drawn in the smaller of them.
        """
        if self.data != "digits" or Path(self.data).exists():
            return read(self.data, self.format)
        counts = self.images.split(",")
        if len(counts) != 2 or not all(count.strip().isdecimal() for count in counts):
            what = f"--images is '{self.images}'"
            raise RequestError(what, do="write two numbers with a comma, such as 1000,250")
        train, valid = map(int, counts)
        return digit_scenes(train=train, valid=valid, size=min(size), seed=self.seed)


@dataclass(frozen=True)
class BatchOptions(SceneOptions):
    """A data set in batches, as networks are judged on.

    Attributes:
        batch_size: Images per batch.
    """

    batch_size: Annotated[int, typer.Option(min=1)] = 16

    def of(self, model: Darknet, part: str) -> Loader:
        """Batches of one part, not augmented."""
        annotations = self.open(size := input_of(model, self.size))
        return loader(annotations[part], annotations.names, size, self.batch_size)


def open_network(
    word: str, weights: Path | None, device: str, *, seed: int = 0, needs_weights: bool = True
) -> Darknet:
    """Open a network on a device.

    Args:
        word: A cfg, or a folder with one cfg and its weights.
        weights: Its weights; None takes the folder's, or leaves what the seed draws.
        device: Where.
        seed: Of the initial weights.
        needs_weights: Refuse a network without weights.

    Raises:
        RequestError: There are no weights and some are needed, or the folder does not hold one of each.
    """
    cfg: str | Path = word
    if Path(word).is_dir():
        cfg = _only(Path(word), ".cfg")
        weights = weights or _only(Path(word), ".weights")
    torch.manual_seed(seed)
    model = load_darknet(cfg, weights)  # first, so that a cfg that cannot be read says why
    if weights is None and needs_weights:
        do = "pass --weights FILE, or a folder that holds a .cfg and its .weights"
        raise RequestError(f"{word} has no weights", do=do)
    return model.to(choose_device(device))


def save_network(model: Darknet, folder: Path) -> tuple[Path, Path]:
    """Write a network's cfg and weights into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return save_darknet(model, folder / Path(model.config.name).stem)


def input_of(model: Darknet, size: str | None) -> tuple[int, int]:
    """Height and width of the input in pixels, by `--size` or the cfg."""
    if size is None:
        net = input_place(model.config)
        return net.integer("height", 416, least=1), net.integer("width", 416, least=1)
    words = size.lower().split("x")
    if len(words) > 2 or not all(word.strip().isdecimal() for word in words):
        raise RequestError(f"--size is '{size}'", do="write pixels, such as 416 or 320x416 (height x width)")
    return int(words[0]), int(words[-1])


def image_side(model: Darknet, size: str | None) -> int | None:
    """The side of square images by `--size`; None without it."""
    if size is None:
        return None
    height, width = input_of(model, size)
    if height != width:
        raise RequestError(f"--size is {size}, only square images can be taken here", do="write one number")
    return height


def _only(folder: Path, suffix: str) -> Path:
    files = sorted(folder.glob(f"*{suffix}"))
    if len(files) != 1:
        found = [file.name for file in files]
        what = f"{folder} holds {len(files)} {suffix} files"
        raise RequestError(what, found, f"name one: CFG, and --weights for its {suffix} file")
    return files[0]
