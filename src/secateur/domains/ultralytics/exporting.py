"""Writing a `.pt` that `YOLO(path)` opens, on a machine without secateur.

Such a file is a pickle of the module, so it holds names of classes. They must all be of Ultralytics, torch
and Python: a module whose code was corrected after the cut is of a class that no other program has.
"""

import copy
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.errors import ExportError
from secateur.exports.format import ExportSubject, Format, formats
from secateur.extras import extra

MARK = (
    "secateur wrote this network: its layers may be smaller than its YAML says, and training it so would "
    "build the whole ones. Pass trainer=secateur.domains.ultralytics.trainer(yolo)"
)
"""The first layer of the YAML in a file, at which Ultralytics' own trainers stop when they build from it."""

_PLAIN = ("collections.", "builtins.", "__builtin__.", "pathlib.", "numpy.", "_codecs.")
_OWN = ("ultralytics.", "torch.", "torchvision.", *_PLAIN)


def write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Write a network in the form of Ultralytics' checkpoints, in the precision that it has.

    Args:
        subject: With a module of Ultralytics, which is changed.
        path: The file.

    Returns:
        Notes for the user.

    Raises:
        MissingExtraError: Ultralytics is not installed.
        ExportError: The module is none of Ultralytics, or holds classes that other programs lack.
    """
    with extra("ultralytics", ".pt files"):
        import ultralytics
        from ultralytics.nn.tasks import BaseModel
    if not isinstance(subject.model, BaseModel):
        raise ExportError(
            f"a .pt file holds a network of Ultralytics, and {type(subject.model).__name__} is none",
            do="write a .torchscript, .pt2 or .onnx file, or a folder with format='state-dict'",
        )
    model: Any = subject.model
    _require_plain(model)
    model.criterion = None  # of a training; made anew by the next
    model.args = model.args if isinstance(model.args, dict) else dict(vars(model.args))  # as after a training
    model.yaml = marked(model.yaml)
    # Ultralytics opens float16 files as float32; written as it is, nothing is rounded.
    held: dict[str, Any] = {
        "epoch": -1,
        "best_fitness": None,
        "model": model.eval().requires_grad_(False),
        "ema": None,
        "optimizer": None,
        "train_args": model.args,
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
    }
    torch.save(held, path)
    _require_known(path)
    return ("a .pt is a pickle: open only those whose origin you trust",)


def marked(layers: dict[str, Any]) -> dict[str, Any]:
    """The YAML of a network with the mark as its first layer; one that has it as it is."""
    if layers["backbone"][0][2] == MARK:
        return layers
    return {**copy.deepcopy(layers), "backbone": [[-1, 1, MARK, []], *layers["backbone"]]}


def _require_plain(model: nn.Module) -> None:
    """Refuse modules of classes that were made for a cut."""
    found = [
        f"{name}: {type(one).__name__}"
        for name, one in model.named_modules()
        if "_pruned_from" in vars(type(one))
    ]
    if found:
        raise ExportError(
            f"the code of {len(found)} modules was corrected after the cut; Ultralytics has no such classes",
            found,
            "prune with corrections=False, which leaves whole what would need them",
        )


def _require_known(path: Path) -> None:
    """Refuse a file that holds names of other programs."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    foreign = [name for name in names if not name.startswith(_OWN)]
    if foreign:
        raise ExportError(
            f"the network holds {foreign[0]}, which only your program has",
            [f"also {', '.join(foreign[1:])}"] if foreign[1:] else [],
            "take it off the network, then write it",
        )


formats.add(
    "ultralytics",
    Format(
        what="a .pt of Ultralytics, for YOLO(path); read back by Ultralytics",
        suffix=".pt",
        write=write,
        reader=Path(__file__).with_name("reader.py"),
        extra="ultralytics",
        needs_norms="Ultralytics folds them itself when it runs the file",
    ),
)
