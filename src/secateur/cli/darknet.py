"""What the verbs of `secateur darknet` share: networks and data sets by their words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import torch
import typer

from secateur.domains.darknet import Darknet, load_darknet, save_darknet
from secateur.domains.darknet.data import Annotations, Loader, digit_scenes, loader, read
from secateur.domains.darknet.layers import input_place
from secateur.errors import RequestError
from secateur.train.classifier import choose_device

CfgWord: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="CFG",
        help="A .cfg file, a bundled name (digits, yolov3, yolov3-spp, yolov3-tiny, yolov4, yolov4-tiny), "
        "or a folder with one .cfg and its .weights.",
    ),
]
Weights: TypeAlias = Annotated[Path | None, typer.Option("--weights", help="The .weights file.")]
DataWord: TypeAlias = Annotated[
    str,
    typer.Option(
        "--data", help="digits (bundled scenes), a .data file, or what --format reads: a file or folder."
    ),
]
Format: TypeAlias = Annotated[
    str, typer.Option("--format", help="Of --data: yolo, coco, voc or oxford-hand.")
]
Images: TypeAlias = Annotated[
    str, typer.Option("--images", help="Of --data digits: training and validation scenes, with a comma.")
]
Part: TypeAlias = Annotated[str, typer.Option("--part", help="Part of the data set: train, valid or test.")]
Size: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--size", help="Input in pixels, such as 416 or 320x416 (height x width); the cfg's if absent."
    ),
]
Strategy: TypeAlias = Annotated[
    str,
    typer.Option("--strategy", help="normal, regular, extreme, tiny, slim, layers or layers+channels."),
]
BatchSize: TypeAlias = Annotated[int, typer.Option("--batch-size", min=1, help="Images per batch.")]
Conf: TypeAlias = Annotated[float, typer.Option("--conf", help="Smallest confidence, from 0 to 1.")]
Iou: TypeAlias = Annotated[
    float, typer.Option("--iou", help="Overlap above which the less confident box of a class is dropped.")
]


@dataclass(frozen=True)
class DataWords:
    """A data set as the command line names it.

    Attributes:
        word: `--data`.
        format: `--format`.
        images: `--images`.
        seed: `--seed`, for drawn scenes.
    """

    word: str
    format: str = "yolo"
    images: str = "1000,250"
    seed: int = 0

    def open(self, size: tuple[int, int]) -> Annotations:
        """Read or draw the data set.

        Args:
            size: Height and width of the network's input: scenes are drawn in the smaller of them.
        """
        if self.word != "digits" or Path(self.word).exists():
            return read(self.word, self.format)
        counts = self.images.split(",")
        if len(counts) != 2 or not all(count.strip().isdecimal() for count in counts):
            what = f"--images is '{self.images}'"
            raise RequestError(what, do="write two numbers with a comma, such as 1000,250")
        train, valid = map(int, counts)
        return digit_scenes(train=train, valid=valid, size=min(size), seed=self.seed)


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


def plain_batches(words: DataWords, part: str, size: tuple[int, int], batch_size: int) -> Loader:
    """Batches of one part, not augmented."""
    annotations = words.open(size)
    return loader(annotations[part], annotations.names, size, batch_size)


def _only(folder: Path, suffix: str) -> Path:
    files = sorted(folder.glob(f"*{suffix}"))
    if len(files) != 1:
        found = [file.name for file in files]
        what = f"{folder} holds {len(files)} {suffix} files"
        raise RequestError(what, found, f"name one: CFG, and --weights for its {suffix} file")
    return files[0]
