"""Saved models: weights as safetensors, the plan as JSON, no pickle anywhere.

    half/weights.safetensors   the values; its metadata holds a hash of the plan
    half/plan.json             which architecture, and what was kept of it

Both are renamed into place. Should a run be killed between the two renames, the hash no longer fits and
`load` says so instead of mixing two models. What `sc.stream` cut has its values in `model.safetensors`, or in
several files with an index, and loads in the same way.
"""

import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError
from secateur.plans.plan import Plan, unsaved_names
from secateur.write.atomic import atomic_write
from secateur.write.masked import put_masks
from secateur.write.packed import pack, unpack
from secateur.write.shards import INDEX, SINGLE, SUFFIX, open_shards, opened

WEIGHTS = "weights.safetensors"
PLAN = "plan.json"


def save_model(model: nn.Module, plan: Plan, folder: Path | str, *, packed: bool = False) -> Path:
    """Write a model and its plan.

    Args:
        model: The cut model, possibly trained since.
        plan: The plan that makes its architecture from the uncut one.
        folder: Where to write; made if missing, replaced file by file.
        packed: Write sparse tensors as bits and kept values; see `secateur.write.packed`.

    Returns:
        The folder.

    Raises:
        SecateurError: The folder cannot be written; what was there is untouched.
    """
    path = Path(folder)
    text = plan.to_json().encode()
    metadata = {"format": "pt", "secateur_plan": hashlib.sha256(text).hexdigest()}
    tensors = _without_ties(model)
    if packed:
        tensors, described = pack(tensors)
        metadata |= described

    def write_both(file: Path) -> None:
        # The small file takes its room before the large one replaces anything: a full disk harms neither.
        file.write_bytes(text)
        atomic_write(path / WEIGHTS, lambda weights: _write_tensors(tensors, weights, metadata))

    atomic_write(path / PLAN, write_both)
    return path


def _write_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    try:
        save_file(dict(tensors), file, dict(metadata))
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))
        if refused is None:
            raise
        # The library hides the operating system's refusal in a text; as `OSError` it is explained as all are.
        number = int(refused.group(1))
        raise OSError(number, os.strerror(number)) from error


def _without_ties(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, every tensor once, contiguous, on the CPU."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    memory: set[int] = set()
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            held = tensor.detach().cpu().contiguous()
            # Two tensors in one memory are two values in the file, which may not overlap.
            place = held.untyped_storage().data_ptr()
            found[name] = held.clone() if place in memory else held
            memory.add(place)
    return found


def load_model(folder: Path | str, architecture: nn.Module) -> nn.Module:
    """Read a saved model.

    Args:
        folder: What `save_model` wrote.
        architecture: The uncut architecture; its values do not matter, and it is not changed. It may be on
            the meta device; the new model's parameters lie on the CPU then.

    Returns:
        A new model of the same class with the saved widths and weights.

    Raises:
        CheckpointError: A file is missing, truncated or foreign, or the plan is for another architecture.
    """
    plan, tensors = read_saved(folder)
    model = apply_saved(plan, architecture, folder)
    put_masks(model, tensors)
    load_state(model, tensors, weights_of(folder))
    return model


def weights_of(folder: Path | str) -> Path:
    """Where a folder has its values: the file that `save_model` writes, or the index or file of a stream."""
    path = Path(folder)
    found = (path / name for name in (WEIGHTS, INDEX, SINGLE) if (path / name).is_file())
    return next(found, path / WEIGHTS)


def read_saved(folder: Path | str) -> tuple[Plan, Mapping[str, Tensor]]:
    """Read the plan and the tensors of a saved model, which must be of one save.

    Raises:
        CheckpointError: A file is missing, truncated, edited or foreign.
    """
    path = Path(folder)
    text = _plan_text(path)
    return Plan.from_json(text, str(path / PLAN)), read_state(weights_of(path), plan_text=text)


def apply_saved(plan: Plan, architecture: nn.Module, folder: Path | str) -> nn.Module:
    """Cut an architecture by the plan of a folder; errors name the folder.

    Raises:
        CheckpointError: The plan is for another architecture, or makes no sense.
    """
    try:
        return plan.apply(architecture)
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {folder}: {error.what}", error.context, error.do) from error
    except (LookupError, AttributeError, TypeError, ValueError, MemoryError) as error:
        raise CheckpointError(
            f"cannot load {folder}: its {PLAN} contradicts itself",
            [f"{type(error).__name__}: {error}"],
            "it was edited or damaged; save the model again",
        ) from error


def load_plan(folder: Path | str) -> Plan:
    """Read the plan of a saved model.

    Raises:
        CheckpointError: It is missing or no plan.
    """
    path = Path(folder)
    return Plan.from_json(_plan_text(path), str(path / PLAN))


def _plan_text(folder: Path) -> bytes:
    do = "pass a folder that secateur saved"
    try:
        return (folder / PLAN).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.is_file() else "no such folder"
            raise CheckpointError(f"cannot load {folder}: {what}", do=do) from error
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
        raise CheckpointError(
            f"cannot load {folder}: there is no {PLAN}", [f"found: {found or 'nothing'}"], do
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot load {folder}: {error.strerror or error}", do=do) from error


def read_state(path: Path | str, plan_text: bytes | None = None) -> Mapping[str, Tensor]:
    """Read the tensors of a checkpoint without executing anything.

    Args:
        path: A `.safetensors` file; a folder or an index of several, which are then read one tensor at a
            time; or a state dict that `torch.save` wrote, in which anything but tensors is refused
            (`weights_only=True`).
        plan_text: If given, the plan that the tensors must belong to.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, or belongs to another plan.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".json":
        shards = open_shards(path)
        _require_plan(path, shards.plan_hashes, plan_text)
        return shards
    if not path.is_file():
        raise CheckpointError(f"cannot load {path}: no such file", do="check the path")
    if path.suffix != SUFFIX:
        return _read_torch(path)
    with opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    _require_plan(path, {metadata.get("secateur_plan")}, plan_text)
    return unpack(tensors, metadata)


def _require_plan(path: Path, hashes: Collection[str | None], plan_text: bytes | None) -> None:
    """Refuse files that say they belong to another plan; one that says nothing may belong to any."""
    if plan_text is not None and set(hashes) - {None, hashlib.sha256(plan_text).hexdigest()}:
        raise CheckpointError(
            f"cannot load {path.parent}: {path.name} and {PLAN} belong to different models",
            ["a save was interrupted between the two files, or one of them was replaced or edited"],
            "save the model again",
        )


def _read_torch(path: Path) -> dict[str, Tensor]:
    do = "load it where you trust it and save model.state_dict() with safetensors.torch.save_file"
    try:
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


def _is_pickle(path: Path) -> bool:
    """Whether a file is an archive, or starts as a pickle of protocol 2 or later does."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str) -> None:
    """Fill a model with tensors, all of them or none.

    Args:
        model: The model; filled in place. Tensors on the meta device are replaced by ones on the CPU.
        tensors: By name; of tied tensors one name is enough.
        origin: Where they come from, for messages.

    Raises:
        CheckpointError: A name is missing or unknown, a shape differs, or a buffer that no checkpoint holds
            is on the meta device.
    """
    state = model.state_dict(keep_vars=True)
    # Older files hold buffers that today's class makes by itself, such as the position_ids of BERT.
    buffers = dict(model.named_buffers(remove_duplicate=False))
    known = {name: buffers[name] for name in unsaved_names(model)} | state
    given = {id(state[name]) for name in tensors if name in state}
    missing = [name for name, held in state.items() if isinstance(held, Tensor) and id(held) not in given]
    unknown = [name for name in tensors if name not in known]
    wrong = [
        f"{name} is {list(tensor.shape)}, the model has {list(known[name].shape)}"
        for name, tensor in tensors.items()
        if name in known and known[name].shape != tensor.shape
    ]
    absent = [f"{name} is not in the file" for name in missing]
    foreign = [f"{name} is in the file, the model has no such tensor" for name in unknown]
    differences = [*wrong, *absent, *foreign]
    if differences:
        raise CheckpointError(
            f"cannot load {origin}: it does not fit {type(model).__name__}",
            [
                f"{len(missing)} missing, {len(unknown)} unknown, {len(wrong)} of another shape",
                f"first difference: {differences[0]}",
            ],
            "build the architecture that the file was saved from",
        )
    _require_buffers(model, origin)
    places = _places(model) if any(known[name].is_meta for name in tensors) else {}
    with torch.no_grad():
        for name, tensor in tensors.items():
            held = known[name]
            if held.is_meta:
                value = tensor.to(held.dtype, copy=True)
                made = nn.Parameter(value, held.requires_grad) if isinstance(held, nn.Parameter) else value
                for table, key in places[id(held)]:
                    table[key] = made
            else:
                held.copy_(tensor)


def _places(model: nn.Module) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """Where modules hold each tensor, by its id; several places where it is tied."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for table in tables:
            for key, tensor in table.items():
                places.setdefault(id(tensor), []).append((table, key))
    return places


def _require_buffers(model: nn.Module, origin: Path | str) -> None:
    """Refuse a model with buffers that have no values and get none from a checkpoint."""
    named = dict(model.named_buffers(remove_duplicate=False))
    empty = [name for name in unsaved_names(model) if named[name].is_meta]
    if empty:
        raise CheckpointError(
            f"cannot load {origin}: {len(empty)} buffers of {type(model).__name__} are on the meta device, "
            "and no checkpoint holds them",
            empty,
            "make the modules that compute them outside of the meta device, then load",
        )
