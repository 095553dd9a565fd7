"""State dicts that `torch.save` wrote: read as tensors and nothing else.

A pickle is never executed. What is broken in one is told of; what would take PyTorch's own reader minutes is
refused before it is asked: it searches its messages, which quote the names in a file, by a pattern whose time
grows with the square of a name's length.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import CheckpointError

_LONGEST_NAME = 4_096
"""Characters of the name of a class or function."""
_MOST_BYTES = 2**26
"""Of a file that are looked through: what says which tensors there are comes first."""
_PICKLES = 5
"""A file of the old format starts with so many; what follows are numbers."""


def read_torch(path: Path) -> dict[str, Tensor]:
    """Read a state dict by itself, or under the key state_dict or model.

    Args:
        path: The file.

    Raises:
        CheckpointError: It holds more than tensors, is damaged, or is no such file.
    """
    do = "load it where you trust it and save model.state_dict() with safetensors.torch.save_file"
    try:
        require_short_names(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise CheckpointError(
                f"cannot load {path}: it is no file that torch.save wrote",
                do="convert it to safetensors, or load it yourself and pass the model",
            ) from error
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"cannot load {path}: it holds more than tensors, and a pickle is never executed",
            [f"it asks for {asked.group(1)}"] if asked else [],
            do,
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"cannot load {path}: it is truncated, or no file that torch.save wrote",
            [f"the file has {path.stat().st_size:,} bytes"],
            "get it again, or save model.state_dict() with torch.save",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(map(str, list(state)[:8])) if isinstance(state, Mapping) else ""
        raise CheckpointError(
            f"cannot load {path}: it holds a {type(state).__name__} that is no state dict",
            [f"its keys: {keys}"] if keys else [],
            "save model.state_dict() alone, or under the key state_dict",
        )
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def require_short_names(path: Path) -> None:
    """Refuse a pickle that asks for a class or function of a name that no code has.

    Args:
        path: A file that `torch.load` is to read.

    Raises:
        UnpicklingError: It does.
    """
    with path.open("rb") as file:
        begins = file.read(_MOST_BYTES)
    if begins[:1] == b"\x80":
        _scan(begins, _PICKLES)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as file:
                        _scan(file.read(_MOST_BYTES), 1)


def _scan(content: bytes, count: int) -> None:
    file = io.BytesIO(content)
    for _ in range(count):
        try:
            names = [name for code, name, _ in pickletools.genops(file) if code.name in ("GLOBAL", "INST")]
        except ValueError as error:  # PyTorch's reader stops here, too, unless a name may be all that is left
            is_open = "no newline" in str(error)
            names = [content[content.rfind(b"\n") + 1 :]] if is_open else []
        if any(len(str(name)) > _LONGEST_NAME for name in names):
            raise pickle.UnpicklingError(f"it asks for a name of over {_LONGEST_NAME:,} characters")


def _is_pickle(path: Path) -> bool:
    """Whether a file is an archive, or starts as a pickle of protocol 2 or later does."""
    with path.open("rb") as file:
        try:
            return file.read(1) == b"\x80" or zipfile.is_zipfile(path)
        except zipfile.BadZipFile:  # one of several disks, says a damaged end of the archive
            return False
