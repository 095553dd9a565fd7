"""Checkpoints of a training run: no pickle, and complete at every moment.

    run/checkpoints.json                  {"last": "epoch-0003", "best": "epoch-0002"}: the pointer
    run/epoch-0003/weights.safetensors    the state dict of the model, or of its moving average
    run/epoch-0003/raw.safetensors        that of the model, beside its average
    run/epoch-0003/optimizer.safetensors  momentum and the like, by parameter name
    run/epoch-0000/                       where the start counts: as the model came in
    run/epoch-0003/state.json             epoch, recipe, history, loss scale, and digests of all three files

An epoch's folder is filled under a temporary name, renamed, and only then pointed to; replacing the pointer
is one atomic rename. Folders that are no longer pointed to are deleted afterwards. Whenever the run is
killed, the pointer names complete checkpoints. Random states need no storing: those of epoch e follow from
(seed, e).
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur.errors import CheckpointError, RequestError
from secateur.train.history import EpochRecord, find_best_epoch
from secateur.write.atomic import atomic_folder, atomic_write, remove_leftovers
from secateur.write.digests import DIGEST_BYTES, VALUES, digest_of, digests_of, require_same, signed

_VERSION = 2
_POINTER = "checkpoints.json"
_RECORDS = TypeAdapter(tuple[EpochRecord, ...])
_RECORD = TypeAdapter(EpochRecord)
_FOLDER = re.compile(r"epoch-\d{4,}")


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after an epoch as if it had never stopped.

    Args:
        weights: The state dict of the model that is kept: the moving average if there is one.
        optimizer: What the optimizer remembers, by parameter name and key.
        recipe: The settings that decide the result; a run goes on only with the same ones.
        history: One record per epoch so far.
        scaler: State of the loss scale of mixed precision; empty without one.
        raw: The state dict that is trained, where `weights` are its moving average; else empty.
        told: What the task remembers of its data.
        start: The figures of what came in, where they count.
    """

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    recipe: Mapping[str, Any]
    history: tuple[EpochRecord, ...]
    scaler: Mapping[str, Any]
    raw: Mapping[str, Tensor] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    start: EpochRecord | None = None

    @property
    def epoch(self) -> int:
        """The last complete epoch; 0 where only the start was looked at."""
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
    best_epoch = find_best_epoch(checkpoint.history, checkpoint.start)
    last, best = _folder_name(checkpoint.epoch), _folder_name(best_epoch)
    tensors = {"weights": checkpoint.weights, "optimizer": checkpoint.optimizer}
    tensors |= {"raw": checkpoint.raw} if checkpoint.raw else {}
    _delete_all_but_pointed_to(run)
    with atomic_folder(run / last) as folder:
        values = {}
        for part, named in tensors.items():
            content, values[part] = _to_bytes(named)
            atomic_write(folder / f"{part}.safetensors", content)
        told = {
            "version": _VERSION,
            "recipe": dict(checkpoint.recipe),
            "scaler": dict(checkpoint.scaler),
            "told": dict(checkpoint.told),
            "averaged": bool(checkpoint.raw),
            "start": None if checkpoint.start is None else dataclasses.asdict(checkpoint.start),
            "history": [dataclasses.asdict(record) for record in checkpoint.history],
            "values": values,
        }
        atomic_write(folder / "state.json", json.dumps({**told, "digest": _digest(told)}, indent=1).encode())
        if on_checkpoint is not None:
            on_checkpoint(folder)
    atomic_write(run / _POINTER, json.dumps({"last": last, "best": best}).encode())
    _delete_all_but_pointed_to(run)
    return run / last


def read_epoch(folder: Path, parts: Iterable[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read the state and some tensors of a checkpoint.

    Args:
        folder: What `last_folder` or `best_folder` returned.
        parts: The parts whose tensors are wanted.

    Returns:
        The state, and the tensors by part, on the CPU.

    Raises:
        CheckpointError: A file is missing, truncated, foreign, or not what was written.
    """
    state, values = _read_state(folder / "state.json")
    return state, {part: _read_tensors(folder / f"{part}.safetensors", values.get(part)) for part in parts}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint.

    Args:
        folder: What `last_folder` or `best_folder` returned.

    Returns:
        The checkpoint, its tensors on the CPU.

    Raises:
        CheckpointError: A file is missing, truncated, foreign, or not what was written.
    """
    state = read_epoch(folder, ())[0]
    try:
        if state["version"] != _VERSION:
            detail = f"it has version {state['version']}, this secateur reads {_VERSION}"
            do = "start the run anew, or finish it with the secateur that wrote it"
            raise CheckpointError(f"cannot read {folder / 'state.json'}", [detail], do)
        records = _RECORDS.validate_python(state["history"])
        start = None if state.get("start") is None else _RECORD.validate_python(state["start"])
        recipe, scaler, told = (dict(state[name]) for name in ("recipe", "scaler", "told"))
        averaged = bool(state["averaged"])
    except (KeyError, TypeError, ValueError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder / 'state.json'} is no state of a training run", [detail]) from error
    tensors = read_epoch(folder, ("weights", "optimizer", *(("raw",) if averaged else ())))[1]
    raw = tensors.get("raw", {})
    return Checkpoint(tensors["weights"], tensors["optimizer"], recipe, records, scaler, raw, told, start)


def last_folder(run: Path | str) -> Path | None:
    """Find the checkpoint of the last complete epoch; None if the run has none yet."""
    return _pointed_to(Path(run), "last")


def best_folder(run: Path | str) -> Path | None:
    """Find the checkpoint of the epoch that validated best; None if the run has none yet."""
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


def require_pointed(last: Path, best: Path, epochs: tuple[int, int]) -> None:
    """Refuse a pointer that names other epochs than the history of the last one does.

    Args:
        last: What `last_folder` returned.
        best: What `best_folder` returned.
        epochs: The last epoch and the best one, by the history.

    Raises:
        CheckpointError: They differ.
    """
    wanted = tuple(map(_folder_name, epochs))
    if (last.name, best.name) != wanted:
        detail = f"it names {last.name} and {best.name}, by the history they are {wanted[0]} and {wanted[1]}"
        do = "the folder was edited or mixed with another: start the run anew"
        raise CheckpointError(f"{last.parent / _POINTER} does not fit the run", [detail], do)


def require_same_recipe(folder: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a run was started with, naming the differences."""
    names = [*asked, *(name for name in saved if name not in asked)]
    differences = [
        f"{name}: {saved.get(name)} in the checkpoint, {asked.get(name)} asked for"
        for name in names
        if saved.get(name) != asked.get(name)
    ]
    if differences:
        do = "ask for the same settings, or start another run from its weights"
        raise RequestError(f"cannot resume {folder} with other settings", differences, do)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Fill a model; raises `CheckpointError` if the weights are of another architecture."""
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    differing = [name for name in [*expected, *found] if expected.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        shapes = f"{name} is {found.get(name, 'absent')}, the model has {expected.get(name, 'none')}"
        detail = f"first difference: {shapes}"
        do = "build the architecture that the run was started with"
        raise CheckpointError(f"{source} was made for another architecture", [detail], do)
    model.load_state_dict(dict(weights))


def _pointed_to(run: Path, word: str) -> Path | None:
    if not (run / _POINTER).is_file():
        return None
    name = read_json(run / _POINTER).get(word)
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
        if _FOLDER.fullmatch(entry.name) and entry.is_dir() and entry not in keep:
            shutil.rmtree(entry, ignore_errors=True)
    remove_leftovers(run)


def _to_bytes(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """A safetensors file, and the digest of all that it holds."""
    # Copies, because tied weights share memory, which safetensors refuses.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    metadata = signed({"format": "pt"}, {name: digest_of(name, copy) for name, copy in copies.items()})
    return safetensors.torch.save(copies, metadata), metadata[VALUES]


def _read_tensors(path: Path, values: str | None) -> dict[str, Tensor]:
    """Read tensors that are those which the state speaks of; an older state speaks of none."""
    do = "start the run anew"
    if not path.is_file():
        raise CheckpointError(f"cannot read {path}: no such file", do=do)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or foreign", [str(error)], do) from error
    require_same(path, digests_of(path, metadata), tensors)
    if values not in (None, metadata.get(VALUES)):
        raise CheckpointError(f"{path} is not what was written with {path.parent / 'state.json'}", do=do)
    return tensors


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a state and the digests of the tensors beside it; those of older versions had none."""
    state = read_json(path)
    if not {"digest", "values"} & state.keys():
        return state, {}
    digest = state.pop("digest", None)
    if digest != _digest(state) or not isinstance(state.get("values"), dict):
        detail = "its digest is of another state: it was edited or damaged"
        raise CheckpointError(f"{path} is not what was written", [detail], "start the run anew")
    return state, state.pop("values")


def _digest(told: Mapping[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `CheckpointError` for a file that is missing or holds none."""
    try:
        content = from_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON", [str(error)], "start the run anew") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content
