"""Saved models: weights as safetensors, the plan as JSON, no pickle anywhere.

    half/weights.safetensors   the values; its metadata holds a hash of the plan
    half/plan.json             which architecture, and what was kept of it

Both are renamed into place. Should a run be killed between the two renames, the hash no longer fits and
`load` says so instead of mixing two models.
"""

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError
from secateur.plan import Plan
from secateur.write.atomic import atomic_write

WEIGHTS = "weights.safetensors"
PLAN = "plan.json"


def save_model(model: nn.Module, plan: Plan, folder: Path | str) -> Path:
    """Write a model and its plan.

    Args:
        model: The cut model, possibly trained since.
        plan: The plan that makes its architecture from the uncut one.
        folder: Where to write; made if missing, replaced file by file.

    Returns:
        The folder.

    Raises:
        SecateurError: The folder cannot be written; what was there is untouched.
    """
    path = Path(folder)
    text = plan.to_json().encode()
    metadata = {"format": "pt", "secateur_plan": hashlib.sha256(text).hexdigest()}
    tensors = _without_ties(model)

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
        architecture: The uncut architecture; its values do not matter, and it is not changed.

    Returns:
        A new model of the same class with the saved widths and weights.

    Raises:
        CheckpointError: A file is missing, truncated or foreign, or the plan is for another architecture.
    """
    plan, tensors = read_saved(folder)
    model = apply_saved(plan, architecture, folder)
    load_state(model, tensors, Path(folder, WEIGHTS))
    return model


def read_saved(folder: Path | str) -> tuple[Plan, dict[str, Tensor]]:
    """Read the plan and the tensors of a saved model, which must be of one save.

    Raises:
        CheckpointError: A file is missing, truncated, edited or foreign.
    """
    path = Path(folder)
    text = _plan_text(path)
    return Plan.from_json(text, str(path / PLAN)), read_state(path / WEIGHTS, plan_text=text)


def apply_saved(plan: Plan, architecture: nn.Module, folder: Path | str) -> nn.Module:
    """Cut an architecture by the plan of a folder; errors name the folder.

    Raises:
        CheckpointError: The plan is for another architecture, or makes no sense.
    """
    try:
        return plan.apply(architecture)
    except CheckpointError as error:
        lines = str(error).split("\n  ")
        raise CheckpointError(f"cannot load {folder}: {lines[0]}", lines[1:]) from error
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


def read_state(path: Path | str, plan_text: bytes | None = None) -> dict[str, Tensor]:
    """Read the tensors of a file without executing anything.

    Args:
        path: A `.safetensors` file, or a state dict that `torch.save` wrote; anything in the latter that is
            no tensor is refused (`weights_only=True`).
        plan_text: If given, the plan that the file must belong to.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, or belongs to another plan.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"cannot load {path}: no such file", do="check the path")
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot load {path}: {error}",
            [f"the file has {path.stat().st_size:,} bytes; it is truncated or no safetensors file"],
            "save it again",
        ) from error
    expected = metadata.get("secateur_plan")
    if plan_text is not None and expected not in (None, hashlib.sha256(plan_text).hexdigest()):
        raise CheckpointError(
            f"cannot load {path.parent}: {path.name} and {PLAN} belong to different models",
            ["a save was interrupted between the two files, or one of them was replaced or edited"],
            "save the model again",
        )
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    do = "load it where you trust it and save model.state_dict() with safetensors.torch.save_file"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
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


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str) -> None:
    """Fill a model with tensors, all of them or none.

    Args:
        model: The model; filled in place.
        tensors: By name; of tied tensors one name is enough.
        origin: Where they come from, for messages.

    Raises:
        CheckpointError: A name is missing or unknown, or a shape differs.
    """
    state = model.state_dict(keep_vars=True)
    given = {id(state[name]) for name in tensors if name in state}
    missing = [name for name, held in state.items() if isinstance(held, Tensor) and id(held) not in given]
    unknown = [name for name in tensors if name not in state]
    wrong = [
        f"{name} is {list(tensor.shape)}, the model has {list(state[name].shape)}"
        for name, tensor in tensors.items()
        if name in state and state[name].shape != tensor.shape
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
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
