"""Options that several commands share, and how their words are read."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
import typer
from torch import Tensor

from secateur.capture.inputs import map_inputs
from secateur.cli.app import typed
from secateur.domains.classification import Splits, load
from secateur.errors import RequestError
from secateur.sources import Opened, open_model
from secateur.sources.open import split_word
from secateur.train.classifier import choose_device

ModelWord: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="zoo:vgg19, torchvision:resnet18, timm:..., hf:<config folder>, path/to/file.py:factory, "
        "or a folder that secateur saved; FOLDER@file.py:factory if a file built it.",
    ),
]
ModelArguments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--arg", help="Keyword of the model's factory, such as width=0.25; may be repeated."),
]
InputShape: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--input", help="Example input: 1,3,224,224 or input_ids=1,16:int64; several with ';' between."
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of everything that draws.")]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Macs: TypeAlias = Annotated[
    str | None, typer.Option("--macs", help="MACs that may stay: a share (0.5, 50%) or a count (1.5M).")
]
Params: TypeAlias = Annotated[
    str | None, typer.Option("--params", help="Parameters that may stay: a share or a count.")
]
SizeBytes: TypeAlias = Annotated[
    str | None,
    typer.Option("--size-bytes", help="Bytes of the model that may stay: a share, a count, or 2MB."),
]
Memory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--memory", help="Bytes that a forward pass may need, weights and activations: as --size-bytes."
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of the CPU; one is steadiest on a shared machine."),
]
DataName: TypeAlias = Annotated[
    str, typer.Option("--data", help="digits (bundled), fashion-mnist, mnist, cifar10, cifar100 or fake.")
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data set's files.")
]
Download: TypeAlias = Annotated[
    bool, typer.Option("--download", help="Fetch a missing data set into --data-dir.")
]
Save: TypeAlias = Annotated[Path, typer.Option("--save", help="Folder to write to.")]


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
        except json.JSONDecodeError:
            arguments[key] = value
    return arguments


def open_placed(word: str, arguments: Mapping[str, Any], seed: int, device: str) -> Opened:
    """Open a model on a device; the seed decides the initial weights of an architecture."""
    torch.manual_seed(seed)
    opened = open_model(word, arguments)
    opened.model.to(choose_device(device))
    return opened


def example_input(shape: str | None, opened: Opened, data: Splits | None = None) -> Any:
    """Make example inputs from `--input`, or from what source or data know, on the model's device.

    Returns:
        One tensor of zeros (masks: of ones), a tuple of them, or a dict where the inputs have names.

    Raises:
        RequestError: None of them says.
    """
    device = next((parameter.device for parameter in opened.model.parameters()), None)
    if shape is not None:
        return _inputs_of(shape, device)
    if opened.example_inputs is not None:
        return map_inputs(opened.example_inputs, lambda leaf: leaf.to(device))
    if opened.input_shape is None and data is not None:
        return example_of(data).to(device)
    if opened.input_shape is None:
        raise RequestError(
            f"the input of {opened.plan.model} is not known",
            do="pass its shape, such as --input 1,3,224,224, or --input input_ids=1,16:int64 for tokens",
        )
    return torch.zeros(*opened.input_shape, device=device)


def _inputs_of(text: str, device: torch.device | None) -> Any:
    """Read "1,3,224,224", "1,16:int64" or "input_ids=1,16:int64;mask=1,16:bool"."""
    named: dict[str, Tensor] = {}
    unnamed: list[Tensor] = []
    for word in text.split(";"):
        name, _, rest = word.rpartition("=")
        shape, _, kind = rest.partition(":")
        sizes = shape.replace("x", ",").split(",")
        dtype = getattr(torch, kind.strip() or "float32", None)
        if not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
            raise RequestError(f"--input is '{text}'", do="write it as positive sizes, such as 1,3,224,224")
        if not isinstance(dtype, torch.dtype):
            raise RequestError(f"--input has type '{kind}'", do="name a type of torch, such as int64 or bool")
        fill = torch.ones if "mask" in name or dtype is torch.bool else torch.zeros
        made = fill(*map(int, sizes), dtype=dtype, device=device)
        if name.strip():
            named[name.strip()] = made
        else:
            unnamed.append(made)
    if named and unnamed:
        raise RequestError(f"--input is '{text}'", do="name all inputs or none")
    return named or (unnamed[0] if len(unnamed) == 1 else tuple(unnamed))


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


def load_data(name: str, data_dir: Path | None, download: bool, seed: int) -> Splits:
    """Load a data set by the command line's words."""
    return load(name, data_dir=data_dir, download=download, seed=seed)


def data_arguments(data: Splits, word: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a zoo model's arguments from the data set; what was given stays.

    Batch-norm scales start at 0.5, as in network slimming: from 1 the penalty has twice as far to go.
    """
    if not word.startswith("zoo:"):
        return dict(given)
    spec = data.spec
    fitting = {
        "in_channels": spec.in_channels,
        "num_classes": spec.num_classes,
        "image_size": spec.image_size,
        "gamma": 0.5,
    }
    return {**fitting, **given}


def example_of(data: Splits) -> Tensor:
    """An example input of the data set's shape."""
    spec = data.spec
    return torch.zeros(1, spec.in_channels, spec.image_size, spec.image_size)


def emit(numbers: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result: one JSON object for machines, or text for people."""
    sys.stdout.write((json.dumps(_finite(numbers), indent=1) if as_json else text) + "\n")


def _finite(value: Any) -> Any:
    """Write what is not finite as a word, as reports do: JSON has no number for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return {name: _finite(held) for name, held in value.items()}
    return [_finite(held) for held in value] if isinstance(value, (list, tuple)) else value


def say(line: str) -> None:
    """Tell the user what happens, on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def command_line() -> str:
    """The command as typed, for reports and plans."""
    return shlex.join(["secateur", *typed.get()])
