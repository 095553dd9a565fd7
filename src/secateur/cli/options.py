"""Options that several commands share, and how their words are read."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
import typer
from torch import Tensor

from secateur.capture.inputs import map_inputs
from secateur.cli.terminal import command_line, say, timed
from secateur.cli.terminal import emit as emit
from secateur.errors import CheckpointError, RequestError
from secateur.sources import Opened, open_model
from secateur.sources.open import split_word
from secateur.train.checkpoint import last_folder
from secateur.train.device import choose_device
from secateur.write.checkpoint import PLAN, load_plan, load_state, read_state, told

Save: TypeAlias = Annotated[Path, typer.Option(help="Folder to write to.")]

_MOST_INPUT_BYTES = 2**30
"""Of all inputs of a command: they are made before the network is known to take them."""


@dataclass(frozen=True)
class RunFolderOptions:
    """What becomes of a run that is in the folder already.

    Attributes:
        resume: Go on with the run in --save.
        overwrite: Delete the run that is already in --save.
    """

    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class TargetOptions:
    """Where a model is written.

    Attributes:
        save: Folder to write to.
        overwrite: Write over another model that is in --save.
    """

    save: Path
    overwrite: bool = False

    def require_free(self, word: str) -> None:
        """Refuse to write over another model, before the work is done.

        What the same command wrote is replaced without asking.

        Args:
            word: The model that is read.

        Raises:
            RequestError: The folder is the one that is read, holds a training run or another model.
        """
        require_other_folder(word, self.save)
        if last_folder(self.save) is not None:
            do = "name another folder: its weights would be lost"
            raise RequestError(f"{self.save} holds a training run", do=do)
        if not self.overwrite:
            require_no_model(self.save)


@dataclass(frozen=True)
class ComputeOptions:
    """What a computation depends on, beside what is asked for.

    Attributes:
        seed: Seed of everything that is drawn.
        device: auto, cpu, cuda, cuda:1 or mps.
    """

    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0
    device: Annotated[str, typer.Option()] = "auto"


@dataclass(frozen=True)
class MachineOptions(ComputeOptions):
    """A place, and how much of it may be used.

    Attributes:
        threads: Threads of the CPU; one is steadiest on a shared machine.
    """

    threads: Annotated[int | None, typer.Option(min=1)] = None


@dataclass(frozen=True)
class ModelOptions:
    """The model that a command starts from.

    Attributes:
        model: zoo:vgg19, torchvision:resnet18, timm:..., ultralytics:yolo11n.yaml, hf:<config folder>,
            path/to/file.py:factory, or a folder that secateur saved; FOLDER@file.py:factory if a file built
            it.
        arg: Keyword of the model's factory, such as width=0.25; may be repeated.
    """

    model: Annotated[str, typer.Argument(metavar="MODEL")]
    arg: tuple[str, ...] = ()

    def open(self, seed: int, device: str = "cpu", **fitting: Any) -> Opened:
        """Open the model on a device.

        Args:
            seed: Decides the initial weights of an architecture.
            device: Where.
            **fitting: Keywords of the factory of a zoo model that were not given.
        """
        torch.manual_seed(seed)
        given = model_arguments(self.arg)
        with timed(f"opening {self.model}"):
            opened = open_model(self.model, {**fitting, **given} if self.model.startswith("zoo:") else given)
            opened.model.to(choose_device(device))
        return opened


@dataclass(frozen=True)
class WeightedModelOptions(ModelOptions):
    """A model whose weights may come from elsewhere.

    Attributes:
        weights: State dict to fill the architecture with: .safetensors, or .pth.
    """

    weights: str | None = None

    def open(self, seed: int, device: str = "cpu", **fitting: Any) -> Opened:
        """Open the model on a device and fill it."""
        opened = super().open(seed, device, **fitting)
        if self.weights is not None:
            load_state(opened.model, read_state(self.weights), self.weights)
        return opened


@dataclass(frozen=True)
class ExampleOptions:
    """What a model is given to see how it computes.

    Attributes:
        shape: Example input: 1,3,224,224 or input_ids=1,16:int64; several with ';' between.
    """

    shape: Annotated[str | None, typer.Option("--input")] = None

    def of(self, opened: Opened, otherwise: Any = None) -> Any:
        """Make example inputs from `--input`, or from what the source knows, on the model's device.

        Args:
            opened: The model.
            otherwise: An example from the data, for a source that does not know the input's shape.

        Returns:
            One tensor of zeros (masks: of ones), a tuple of them, or a dict where the inputs have names;
            floats in the model's precision.

        Raises:
            RequestError: None of them says.
        """
        device = next((parameter.device for parameter in opened.model.parameters()), None)
        floating = (
            parameter.dtype for parameter in opened.model.parameters() if parameter.is_floating_point()
        )
        precision = next(floating, torch.float32)

        def placed(leaf: Tensor) -> Tensor:
            return leaf.to(device, precision if leaf.dtype == torch.float32 else leaf.dtype)

        if self.shape is not None:
            return map_inputs(inputs_of(self.shape, device), placed)
        if opened.input_shape is None and otherwise is not None:
            return map_inputs(otherwise, placed)
        if opened.example_inputs is not None:
            return map_inputs(opened.example_inputs, placed)
        if opened.input_shape is None:
            raise RequestError(
                f"the input of {opened.plan.model} is not known",
                do="pass its shape, such as --input 1,3,224,224, or --input input_ids=1,16:int64 for tokens",
            )
        return torch.zeros(*opened.input_shape, device=device, dtype=precision)


@dataclass(frozen=True)
class OutputOptions(ExampleOptions):
    """An example, and what of the answer to it counts.

    Attributes:
        outputs: Field or position of the output that counts; may be repeated. Without it all count.
    """

    outputs: tuple[str, ...] = ()


def inputs_of(text: str, device: torch.device | None = None) -> Any:
    """Read "1,3,224,224", "1,16:int64" or "input_ids=1,16:int64;mask=1,16:bool"."""
    named: dict[str, Tensor] = {}
    unnamed: list[Tensor] = []
    size_bytes = 0
    for word in text.split(";"):
        name, _, rest = word.rpartition("=")
        shape, _, kind = rest.partition(":")
        sizes = [size.strip() for size in shape.replace("x", ",").split(",")]
        dtype = getattr(torch, kind.strip() or "float32", None)
        if not all(size.isdecimal() and len(size) < 20 and int(size) > 0 for size in sizes):
            raise RequestError(f"--input is '{text}'", do="write it as positive sizes, such as 1,3,224,224")
        if not isinstance(dtype, torch.dtype):
            raise RequestError(f"--input has type '{kind}'", do="name a type of torch, such as int64 or bool")
        size_bytes += math.prod(map(int, sizes)) * dtype.itemsize
        if size_bytes > _MOST_INPUT_BYTES:
            what, most = f"--input is '{text}': {size_bytes:.6g} bytes", f"allowed: {_MOST_INPUT_BYTES:,}"
            raise RequestError(what, [most], "write the shape of one small batch")
        fill = torch.ones if "mask" in name or dtype is torch.bool else torch.zeros
        try:
            made = fill(*map(int, sizes), dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:  # no room, or a type that cannot be filled
            what = f"--input is '{text}', which torch cannot make"
            raise RequestError(what, [str(error).partition("\n")[0]], "write a smaller batch") from error
        if name.strip():
            named[name.strip()] = made
        else:
            unnamed.append(made)
    if named and unnamed:
        raise RequestError(f"--input is '{text}'", do="name all inputs or none")
    return named or (unnamed[0] if len(unnamed) == 1 else tuple(unnamed))


def model_arguments(words: Sequence[str] | None, option: str = "--arg") -> dict[str, Any]:
    """Read `key=value` words; numbers and true/false become what they look like.

    Example:
        >>> model_arguments(["width=0.25", "bias=true", "name=x"])
        {'width': 0.25, 'bias': True, 'name': 'x'}
    """
    arguments: dict[str, Any] = {}
    for word in words or ():
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise RequestError(f"{option} is '{word}'", do="write it as key=value, such as width=0.25")
        try:
            arguments[key] = json.loads(value)
        except (ValueError, RecursionError):  # also a number of thousands of digits
            arguments[key] = value
    return arguments


def in_float32(opened: Opened) -> Opened:
    """Let a model compute in float32, as tasks do; says so where it was saved in another precision."""
    types = {parameter.dtype for parameter in opened.model.parameters() if parameter.is_floating_point()}
    if types - {torch.float32}:
        named = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        say(f"note: {opened.plan.model} is in {named}, what follows is computed in float32")
        opened.model.float()
    return opened


def require_other_folder(word: str, save: Path) -> None:
    """Refuse to write over the model that is read: its weights would be lost.

    Raises:
        RequestError: Both are one folder.
    """
    folder, _ = split_word(word)
    if folder is not None and folder.resolve() == save.resolve():
        raise RequestError(
            f"--save is {save}, the model that is read", ["its weights would be lost"], "name another folder"
        )


def require_no_model(save: Path) -> None:
    """Refuse to write over a model that another command wrote.

    Raises:
        RequestError: There is one in the folder.
    """
    if not (save / PLAN).is_file():
        return
    try:
        plan = load_plan(save)
    except CheckpointError as error:
        what = f"{save} holds a model whose plan cannot be read: {error.what}"
    else:
        if _request_in(plan.command) == _request_in(command_line()):
            return
        what = f"{save} already holds a model: {told(plan)}"
    do = "name another folder, or write over it with --overwrite"
    raise RequestError(what, ["its weights would be lost"], do)


def _request_in(command: str) -> list[str]:
    """The words of a command that decide what it writes."""
    return [word for word in command.split() if word not in ("--json", "--verbose")]


def numbers_of(option: str, text: str, kind: type[int] | type[float], example: str) -> list[Any]:
    """Read numbers with commas.

    Example:
        >>> numbers_of("--counts", "1,3", int, "1,3,5")
        [1, 3]
    """
    try:
        return [kind(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        do = f"write numbers with commas, such as {example}"
        raise RequestError(f"{option} is '{text}'", do=do) from error
