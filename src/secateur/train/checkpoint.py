"""Checkpoints of a training run: no pickle, and complete at every moment.

    run/checkpoints.json                  {"last": "epoch-0003", "best": "epoch-0002"}: the pointer
    run/epoch-0003/weights.safetensors    the model's state dict
    run/epoch-0003/optimizer.safetensors  momentum, by parameter name
    run/epoch-0003/state.json             epoch, recipe, history, loss scale

An epoch's folder is filled under a temporary name, renamed, and only then pointed to; replacing the pointer
is one atomic rename. Folders that are no longer pointed to are deleted afterwards. Whenever the run is
killed, the pointer names complete checkpoints. Random states need no storing: those of epoch e follow from
(seed, e).
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from secateur.errors import CheckpointError, RequestError
from secateur.train.history import EpochRecord, find_best_epoch
from secateur.write.atomic import atomic_folder, atomic_write

_VERSION = 1
_POINTER = "checkpoints.json"
_FOLDER = re.compile(r"epoch-\d{4,}")
_UNFINISHED = re.compile(r"\.(epoch-\d{4,}\.[0-9a-f]+\.tmp|checkpoints\.[0-9a-f]+\.tmp\.json)")


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after an epoch as if it had never stopped.

    Args:
        weights: The model's state dict.
        momentum: SGD's momentum buffers by parameter name.
        recipe: The settings that decide the result; a run goes on only with the same ones.
        history: One record per epoch so far.
        scaler: State of the loss scale of mixed precision; empty without one.
    """

    weights: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    recipe: Mapping[str, Any]
    history: tuple[EpochRecord, ...]
    scaler: Mapping[str, Any]

    @property
    def epoch(self) -> int:
        """The last complete epoch."""
        return len(self.history)


def write_checkpoint(
    run: Path, checkpoint: Checkpoint, on_checkpoint: Callable[[Path], None] | None = None
) -> Path:
    """Add a checkpoint to a run, point to it, and delete those that are neither last nor best any more.

    Args:
        run: Folder of the run; made if it is missing.
        checkpoint: What to write.
        on_checkpoint: Called with the folder before it gets its name, to add files to it.

    Returns:
        The folder of the new checkpoint.

    Raises:
        SecateurError: The folder cannot be written; the checkpoints that were there remain.
    """
    state = {
        "version": _VERSION,
        "recipe": dict(checkpoint.recipe),
        "scaler": dict(checkpoint.scaler),
        "history": [dataclasses.asdict(record) for record in checkpoint.history],
    }
    tensors = {"weights": checkpoint.weights, "optimizer": checkpoint.momentum}
    epochs = (checkpoint.epoch, find_best_epoch(checkpoint.history))
    return write_epoch(run, epochs, tensors, state, on_checkpoint)


def write_epoch(
    run: Path,
    epochs: tuple[int, int],
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    on_checkpoint: Callable[[Path], None] | None = None,
) -> Path:
    """Add the folder of an epoch to a run of any kind, point to it, delete what is no longer pointed to.

    Args:
        run: Folder of the run; made if it is missing.
        epochs: The last epoch, whose folder this is, and the best one so far.
        tensors: What goes into `<part>.safetensors`, by part.
        state: What goes into `state.json`.
        on_checkpoint: Called with the folder before it gets its name, to add files to it.

    Returns:
        The new folder.

    Raises:
        SecateurError: The folder cannot be written; the checkpoints that were there remain.
    """
    last, best = (_folder_name(epoch) for epoch in epochs)
    _delete_all_but_pointed_to(run)
    with atomic_folder(run / last) as folder:
        for part, named in tensors.items():
            atomic_write(folder / f"{part}.safetensors", _to_bytes(named))
        atomic_write(folder / "state.json", json.dumps(dict(state), indent=1).encode())
        if on_checkpoint is not None:
            on_checkpoint(folder)
    atomic_write(run / _POINTER, json.dumps({"last": last, "best": best}).encode())
    _delete_all_but_pointed_to(run)
    return run / last


def read_epoch(folder: Path, parts: Iterable[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read what `write_epoch` wrote.

    Args:
        folder: What `last_folder` or `best_folder` returned.
        parts: The parts whose tensors are wanted.

    Returns:
        The state, and the tensors by part, on the CPU.

    Raises:
        CheckpointError: A file is missing, truncated or foreign.
    """
    tensors = {part: _read_tensors(folder / f"{part}.safetensors") for part in parts}
    return _read_json(folder / "state.json"), tensors


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint.

    Args:
        folder: What `last_folder` or `best_folder` returned.

    Returns:
        The checkpoint, its tensors on the CPU.

    Raises:
        CheckpointError: A file is missing, truncated or foreign.
    """
    state = _read_json(folder / "state.json")
    try:
        if state["version"] != _VERSION:
            detail = f"it has version {state['version']}, this secateur reads {_VERSION}"
            raise CheckpointError(
                f"cannot read {folder / 'state.json'}", [detail], "use the secateur that wrote it"
            )
        records = [
            EpochRecord(**{**record, "gammas": tuple(record["gammas"])}) for record in state["history"]
        ]
        recipe, scaler = dict(state["recipe"]), dict(state["scaler"])
    except (KeyError, TypeError, ValueError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder / 'state.json'} is no state of a training run", [detail]) from error
    weights, momentum = (_read_tensors(folder / f"{part}.safetensors") for part in ("weights", "optimizer"))
    return Checkpoint(weights, momentum, recipe, tuple(records), scaler)


def last_folder(run: Path | str) -> Path | None:
    """Find the checkpoint of the last complete epoch; None if the run has none yet."""
    return _pointed_to(Path(run), "last")


def best_folder(run: Path | str) -> Path | None:
    """Find the checkpoint of the epoch with the best validation accuracy; None if the run has none yet."""
    return _pointed_to(Path(run), "best")


def delete_run(run: Path) -> None:
    """Delete all checkpoints of a run, the pointer first; other files in the folder stay."""
    (run / _POINTER).unlink(missing_ok=True)
    _delete_all_but_pointed_to(run)


def checkpoints_to_resume(run: Path, *, resume: bool, overwrite: bool) -> tuple[Path, Path] | None:
    """Find the last and the best checkpoint of a run to go on with; None if it starts anew.

    Args:
        run: The run's folder.
        resume: Go on with what is there.
        overwrite: Delete what is there.

    Raises:
        RequestError: There is a run, and neither was asked for.
    """
    if overwrite:
        delete_run(run)
    last, best = last_folder(run), best_folder(run)
    if last is None or best is None:
        return None
    if not resume:
        do = "resume it (--resume), overwrite it (--overwrite), or name another folder"
        raise RequestError(f"{run} already holds a run ({last.name})", do=do)
    return last, best


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the state dict of one checkpoint; raises `CheckpointError` for a missing or truncated file."""
    return _read_tensors(folder / "weights.safetensors")


def _pointed_to(run: Path, word: str) -> Path | None:
    if not (run / _POINTER).is_file():
        return None
    name = _read_json(run / _POINTER).get(word)
    if not isinstance(name, str) or not _FOLDER.fullmatch(name) or not (run / name).is_dir():
        detail = f"its {word!r} is {name!r}"
        raise CheckpointError(
            f"{run / _POINTER} names no checkpoint", [detail], "was the folder copied in part?"
        )
    return run / name


def _folder_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _delete_all_but_pointed_to(run: Path) -> None:
    """Delete old checkpoints and what killed runs left half-written."""
    keep = {last_folder(run), best_folder(run)}
    for entry in run.iterdir() if run.is_dir() else ():
        old = _FOLDER.fullmatch(entry.name) and entry not in keep
        if not old and not _UNFINISHED.fullmatch(entry.name):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies, because tied weights share memory, which safetensors refuses.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return safetensors.torch.save(copies)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or foreign", [str(error)], "start the run anew"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON", [str(error)], "start the run anew") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content
