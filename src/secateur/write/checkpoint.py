"""Saved models: weights as safetensors, the plan as JSON, no pickle anywhere.

    half/weights.safetensors   the values; its metadata holds a hash of the plan and digests of the values
    half/plan.json             which architecture, and what was kept of it

Both are renamed into place. Should a run be killed between the two renames, the hash fits the plan that
waits under its temporary name, and whoever reads the folder next finishes the renaming. What `sc.stream` cut
has its values in `model.safetensors`, or in several files with an index, and loads in the same way.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError, RequestError
from secateur.mask.state import put_masks
from secateur.plans.plan import Plan
from secateur.write.atomic import atomic_write, leftovers
from secateur.write.digests import digest_of, digests_of, require_same, signed
from secateur.write.empty import filled
from secateur.write.filling import load_state, retype, unsaved_types
from secateur.write.packed import pack, unpack
from secateur.write.pickles import read_torch
from secateur.write.shards import INDEX, SINGLE, SUFFIX, open_shards, opened

WEIGHTS = "weights.safetensors"
PLAN = "plan.json"
_PLAN_HASH, _UNSAVED = "secateur_plan", "secateur_unsaved"
_WORDS = TypeAdapter(dict[str, str])


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
    with contextlib.suppress(OSError, CheckpointError):
        _finished_plan(path)  # what is there must outlive this save, should it fail
    text = plan.to_json().encode()
    metadata = {"format": "pt", _PLAN_HASH: hashlib.sha256(text).hexdigest()}
    if types := unsaved_types(model):
        metadata[_UNSAVED] = json.dumps(types)
    tensors = _without_ties(model)
    if packed:
        tensors, described = pack(tensors)
        metadata |= described
    metadata = signed(metadata, {name: digest_of(name, tensor) for name, tensor in tensors.items()})

    def write_both(file: Path) -> None:
        # The small file takes its room before the large one replaces anything: a full disk harms neither.
        file.write_bytes(text)
        atomic_write(path / WEIGHTS, lambda weights: _write_tensors(tensors, weights, metadata))

    atomic_write(path / PLAN, write_both)
    return path


def require_same_model(folder: Path | str, plan: Plan) -> None:
    """Refuse to save over another model than the one of a plan; earlier values of the same one may go.

    Raises:
        RequestError: The folder holds a model that another plan makes, or one of which nobody can tell.
    """
    path = Path(folder)
    if not any((path / name).exists() for name in (PLAN, WEIGHTS)):
        return
    try:
        there = load_plan(path)
    except CheckpointError as error:
        raise _occupied(path, f"a model whose plan cannot be read: {error.what}") from error
    if not there.makes_what(plan):
        raise _occupied(path, f"another model: {told(there)}, and what is to be saved is {told(plan)}")


def _occupied(path: Path, what: str) -> RequestError:
    do = "name another folder, or overwrite it: overwrite=True, --overwrite"
    return RequestError(f"{path} holds {what}", ["its weights would be lost"], do)


def told(plan: Plan) -> str:
    """What a plan makes, in some words.

    Example:
        >>> from secateur.plans.making import identity_plan
        >>> told(identity_plan(nn.Linear(2, 3), "", {}))
        'Linear, uncut, of 9 parameters'
    """
    links = [link for link in plan.chain if link.changes_model]
    if not links:
        return f"{plan.model}, uncut, of {plan.params:,} parameters"
    return f"{plan.model} after {', '.join(str(link.requested) for link in links)}"


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


def load_model(folder: Path | str, architecture: nn.Module, *, verify: bool = True) -> nn.Module:
    """Read a saved model.

    Args:
        folder: What `save_model` wrote.
        architecture: The uncut architecture; its values do not matter, and it is not changed. It may be on
            the meta device; the new model's parameters lie on the CPU then, and so do the buffers that no
            checkpoint holds: their modules compute them anew. Its floating-point types do not matter either:
            tensors come back in the types that they were saved in.
        verify: Compare the values with the digests that were saved with them; False takes them as they are.

    Returns:
        A new model of the same class with the saved widths and weights.

    Raises:
        CheckpointError: A file is missing, truncated, damaged or foreign, or the plan is for another
            architecture.
    """
    plan, tensors = read_saved(folder, verify=verify)
    model = apply_saved(plan, filled(architecture, plan.first.ties), folder)
    put_masks(model, tensors)
    weights = weights_of(folder)
    load_state(model, tensors, weights, exact=True)
    if weights.suffix == SUFFIX:
        with opened(weights) as file:
            retype(model, _unsaved_types(weights, file.metadata() or {}))
    return model


def _unsaved_types(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        return _WORDS.validate_json(metadata.get(_UNSAVED, "{}"))
    except ValidationError as error:
        what = f"cannot load {path}: its header does not say what types its buffers have"
        raise CheckpointError(what, do="the file is damaged; save the model again") from error


def weights_of(folder: Path | str) -> Path:
    """Where a folder has its values: the file that `save_model` writes, or the index or file of a stream."""
    path = Path(folder)
    found = (path / name for name in (WEIGHTS, INDEX, SINGLE) if (path / name).is_file())
    return next(found, path / WEIGHTS)


def read_saved(folder: Path | str, *, verify: bool = True) -> tuple[Plan, Mapping[str, Tensor]]:
    """Read the plan and the tensors of a saved model, which must be of one save.

    Args:
        folder: What `save_model` or `stream` wrote.
        verify: Compare the tensors with their digests.

    Raises:
        CheckpointError: A file is missing, truncated, edited or foreign.
    """
    path = Path(folder)
    text = _plan_text(path)
    plan = Plan.from_json(text, str(path / PLAN))
    return plan, read_state(weights_of(path), plan_text=text, verify=verify)


def apply_saved(plan: Plan, architecture: nn.Module, folder: Path | str) -> nn.Module:
    """Cut an architecture by the plan of a folder; errors name the folder.

    Raises:
        CheckpointError: The plan is for another architecture, or makes no sense.
    """
    try:
        return plan.apply(architecture)
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {folder}: {error.what}", error.context, error.do) from error
    except (
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
        MemoryError,
        ArithmeticError,
    ) as error:
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


def _finished_plan(folder: Path) -> bytes | None:
    """The plan of a save that was killed once its weights had their name: it is given its own now."""
    waiting = leftovers(folder, folder / PLAN)
    if not waiting or not (folder / WEIGHTS).is_file():
        return None
    with opened(folder / WEIGHTS) as file:
        wanted = (file.metadata() or {}).get(_PLAN_HASH)
    for temporary in waiting:
        text = temporary.read_bytes()
        if hashlib.sha256(text).hexdigest() == wanted:
            with contextlib.suppress(OSError):  # a folder that may only be read is read all the same
                temporary.replace(folder / PLAN)
            return text
    return None


def _plan_text(folder: Path) -> bytes:
    do = "pass a folder that secateur saved"
    try:
        return _finished_plan(folder) or (folder / PLAN).read_bytes()
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


def read_state(
    path: Path | str, plan_text: bytes | None = None, *, verify: bool = True
) -> Mapping[str, Tensor]:
    """Read the tensors of a checkpoint without executing anything.

    Args:
        path: A `.safetensors` file; a folder or an index of several, which are then read one tensor at a
            time; or a state dict that `torch.save` wrote, in which anything but tensors is refused
            (`weights_only=True`).
        plan_text: If given, the plan that the tensors must belong to.
        verify: Compare the tensors with the digests that a file of ours holds.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, damaged, or belongs to another plan.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".json":
        shards = open_shards(path, verify=verify)
        _require_plan(path, shards.plan_hashes, plan_text)
        return shards
    if not path.is_file():
        raise CheckpointError(f"cannot load {path}: no such file", do="check the path")
    if path.suffix != SUFFIX:
        return read_torch(path)
    with opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    _require_plan(path, {metadata.get(_PLAN_HASH)}, plan_text)
    if verify:
        require_same(path, digests_of(path, metadata), tensors)
    return unpack(tensors, metadata)


def _require_plan(path: Path, hashes: Collection[str | None], plan_text: bytes | None) -> None:
    """Refuse files that say they belong to another plan; one that says nothing may belong to any."""
    if plan_text is not None and set(hashes) - {None, hashlib.sha256(plan_text).hexdigest()}:
        raise CheckpointError(
            f"cannot load {path.parent}: {path.name} and {PLAN} belong to different models",
            ["a save was interrupted between the two files, or one of them was replaced or edited"],
            "save the model again",
        )
