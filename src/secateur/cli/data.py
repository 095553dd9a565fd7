"""What networks are for and the data that they are trained and judged on, as commands ask for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from secateur.cli.options import ModelOptions, in_float32, model_arguments
from secateur.cli.terminal import timed
from secateur.errors import RequestError
from secateur.sources import Opened
from secateur.train import Opening, Work
from secateur.train.task import task_names

TaskWord: TypeAlias = Annotated[
    str, typer.Option(help=f"What the network is for: {', '.join(task_names())}, or file.py:MyTask.")
]


@dataclass(frozen=True)
class DataOptions:
    """A task and its data.

    Attributes:
        data: digits (bundled), fashion-mnist, mnist, cifar10, cifar100 or fake; a folder with a folder of
            images for each class; a CSV file with path,label; or file.py:function. Other tasks take other
            words: see docs/your-own-data.md.
        task: What the network is for.
        data_arg: Option of the data, such as image_size=64; may be repeated.
        data_dir: Folder of the data set's files.
        download: Fetch a missing data set into --data-dir.
    """

    data: str = "digits"
    task: TaskWord = "classification"
    data_arg: tuple[str, ...] = ()
    data_dir: Path | None = None
    download: bool = False

    def open(self, seed: int) -> Work:
        """Open the data; the seed decides the split into parts."""
        options = model_arguments(self.data_arg, "--data-arg")
        with timed(f"opening {self.data}"):
            return Work.open(self.task, self.data, Opening(self.data_dir, self.download, seed, options))


@dataclass(frozen=True)
class CalibrationOptions:
    """Data beside a cut.

    Attributes:
        data: Data for criteria (with labels) and recovery (without), as for secateur train.
        task: What the network is for.
        data_arg: Option of the data, such as image_size=64; may be repeated.
        images: How many training samples of --data to draw; default: 1024.
        data_dir: Folder of the data set's files.
        download: Fetch a missing data set into --data-dir.
    """

    data: str | None = None
    task: TaskWord = "classification"
    data_arg: tuple[str, ...] = ()
    images: int | None = None
    data_dir: Path | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise RequestError(f"--images is {self.images}", do="pass a number such as 1024")
        if self.data is None and self.images is not None:
            raise RequestError("--images was given without --data", do="add --data, such as --data digits")
        if self.data is None and (self.task != "classification" or self.data_arg):
            raise RequestError("--task and --data-arg are for --data, which was not given", do="add --data")

    def open(self, seed: int) -> Work | None:
        """Open the data, if there are some."""
        if self.data is None:
            return None
        return DataOptions(self.data, self.task, self.data_arg, self.data_dir, self.download).open(seed)


def open_fitting(model: ModelOptions, data: Work, seed: int, device: str = "cpu") -> Opened:
    """Open a model that fits the data and computes in their precision.

    Batch-norm scales of a fresh one start at 0.5, as in network slimming: from 1 the penalty has twice as far
    to go.
    """
    fitting = {**data.task.model_arguments(data.parts), "gamma": 0.5}
    return in_float32(model.open(seed, device, **fitting))
