"""Filling a model with the tensors of a file: all or none, each of the type that it was saved in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.architecture import unsaved_names
from secateur.errors import CheckpointError, prefix_hint


def load_state(
    model: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str, *, exact: bool = False
) -> None:
    """Fill a model with tensors, all of them or none.

    Floating-point tensors come back in the type of the file, and the model's change theirs for it: bfloat16
    stays bfloat16. In a file of several such types, which need not be meant, the model's types stay, as all
    other types do; a value that does not go into its type is an error.

    Args:
        model: The model; filled in place. Tensors on the meta device are replaced by ones on the CPU.
        tensors: By name; of tied tensors one name is enough.
        origin: Where they come from, for messages.
        exact: Several floating-point types are meant, too: we wrote the file.

    Raises:
        CheckpointError: A name is missing or unknown, a shape or a kind of type differs, a value is out of
            range, or a buffer that no checkpoint holds is on the meta device.
    """
    state = model.state_dict(keep_vars=True)
    # Older files hold buffers that today's class makes by itself, such as the position_ids of BERT.
    buffers = dict(model.named_buffers(remove_duplicate=False))
    known = {name: buffers[name] for name in unsaved_names(model)} | state
    _require_fit(model, state, known, tensors, origin)
    _require_buffers(model, origin)
    types = _types(known, tensors, exact=exact)
    _require_range(known, tensors, types, origin)
    places = _places(model) if any(known[name].is_meta for name in tensors) else {}
    with torch.no_grad():
        for name, tensor in tensors.items():
            held = known[name]
            if held.is_meta:
                value = tensor.to(types[name], copy=True)
                made = nn.Parameter(value, held.requires_grad) if isinstance(held, nn.Parameter) else value
                for table, key in places[id(held)]:
                    table[key] = made
                continue
            if held.dtype != types[name]:
                held.data = held.data.to(types[name])
            held.copy_(tensor)


def unsaved_types(model: nn.Module) -> dict[str, str]:
    """The types of the floating-point buffers that a state dict leaves out, as `retype` takes them.

    Example:
        >>> model = nn.Module()
        >>> model.register_buffer("table", torch.zeros(2).half(), persistent=False)
        >>> unsaved_types(model)
        {'table': 'float16'}
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))
    named = ((name, buffers[name].dtype) for name in unsaved_names(model))
    return {name: str(dtype).removeprefix("torch.") for name, dtype in named if dtype.is_floating_point}


def retype(model: nn.Module, types: Mapping[str, str]) -> None:
    """Give buffers that no file holds the types that they had when the model was saved; others stay."""
    for name, buffer in model.named_buffers(remove_duplicate=False):
        dtype = getattr(torch, types.get(name, ""), None)
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)


def _require_fit(
    model: nn.Module,
    state: Mapping[str, Any],
    known: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    origin: Path | str,
) -> None:
    given = {id(state[name]) for name in tensors if name in state}
    missing = [name for name, held in state.items() if isinstance(held, Tensor) and id(held) not in given]
    unknown = [name for name in tensors if name not in known]
    shared = {name: (tensor, known[name]) for name, tensor in tensors.items() if name in known}
    wrong = [
        f"{name} is {list(tensor.shape)}, the model has {list(held.shape)}"
        for name, (tensor, held) in shared.items()
        if held.shape != tensor.shape
    ]
    types = [
        f"{name} is {_word(tensor)}, the model has {_word(held)}"
        for name, (tensor, held) in shared.items()
        if _kind(held) != _kind(tensor)
    ]
    absent = [f"{name} is not in the file" for name in missing]
    foreign = [f"{name} is in the file, the model has no such tensor" for name in unknown]
    differences = [*wrong, *types, *absent, *foreign]
    if differences:
        counts = f"{len(missing)} missing, {len(unknown)} unknown, {len(wrong)} of another shape"
        raise CheckpointError(
            f"cannot load {origin}: it does not fit {type(model).__name__}",
            [
                counts + (f", {len(types)} of another type" if types else ""),
                f"first difference: {differences[0]}",
                *prefix_hint(state, tensors, type(model).__name__),
            ],
            "build the architecture that the file was saved from",
        )


def _kind(tensor: Tensor) -> str:
    """What kind of numbers a tensor holds; within one kind they can be converted."""
    if tensor.dtype is torch.bool:
        return "bool"
    return "floating" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def _word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _types(known: Mapping[str, Any], tensors: Mapping[str, Tensor], *, exact: bool) -> dict[str, torch.dtype]:
    """The type that each tensor gets: that of the file where it is meant, else the model's."""
    floating = {name: tensor.dtype for name, tensor in tensors.items() if _kind(tensor) == "floating"}
    follows = exact or len(set(floating.values())) == 1
    return {name: floating[name] if follows and name in floating else known[name].dtype for name in tensors}


def _require_range(
    known: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    types: Mapping[str, torch.dtype],
    origin: Path | str,
) -> None:
    """Refuse values that the types they get cannot hold."""
    for name, dtype in types.items():
        if tensors[name].dtype == dtype:
            continue
        tensor = tensors[name]
        made = tensor.to(dtype)
        fits = (
            torch.equal(made.isfinite(), tensor.isfinite())
            if _kind(tensor) in ("floating", "complex")
            else torch.equal(made.to(tensor.dtype), tensor)
        )
        if not fits:
            raise CheckpointError(
                f"cannot load {origin}: values of {name} do not go into the model's type",
                [f"the file has {_word(tensor)}, the model {_word(known[name])}"],
                "build the model in the types of the file",
            )


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
            "make the modules that compute them outside of the meta device, then load; or let them keep the "
            "arguments of their __init__ as attributes, then they are made anew",
        )
