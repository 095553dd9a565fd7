"""A model as a program of `torch.export`, with some sizes left open."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call, cloned
from secateur.errors import ExportError, SizeError
from secateur.exports.format import ExportSubject
from secateur.exports.trials import resized

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def exported_program(subject: ExportSubject) -> ExportedProgram:
    """Export a model by `torch.export`.

    Args:
        subject: What is exported, and which sizes are left open.

    Raises:
        SizeError: The exporter does not leave a size open that it was asked to.
        ExportError: It does not take the model at all.
    """
    fewest = {at: dict.fromkeys(dims, 2) for at, dims in _open_dims(subject).items()}
    # Sizes of 0 and 1 are always fixed by torch.export: a batch of one is exported as one of two.
    args, kwargs = as_call(resized(subject.example_inputs, fewest, at_least=True))
    try:
        program = torch.export.export(
            subject.model, args, kwargs, dynamic_shapes=_shapes(subject, (args, kwargs)), strict=False
        )
    except Exception as error:
        kind = SizeError if subject.open else ExportError
        raise kind(f"torch.export does not take the model: {reason(error)}") from error
    _require_open(subject, program)
    if subject.open:
        _require_runs(subject, program)
    return program


def reason(error: BaseException) -> str:
    """The first line of what another library says was the cause, for people."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def needed_packages(namespaces: Iterable[str]) -> list[str]:
    """A note of the packages whose operators a file calls; they must be imported before it is opened.

    Example:
        >>> needed_packages(["aten", "torchvision", "aten"]), needed_packages(["prim"])
        (['needs to be opened with torchvision imported'], [])
    """
    foreign = sorted(set(namespaces) - {"aten", "prim", "prims", "higher_order", "quantized", "_operator"})
    return [f"needs to be opened with {', '.join(foreign)} imported"] if foreign else []


def _open_dims(subject: ExportSubject) -> dict[int, set[int]]:
    """By the number of a tensor among the inputs: the dims that are left open."""
    dims: dict[int, set[int]] = {}
    for at, dim in (place for places in subject.open.values() for place in places):
        dims.setdefault(at, set()).add(dim)
    return dims


def _shapes(subject: ExportSubject, call: Any) -> Any:
    """What `torch.export` takes as `dynamic_shapes`: a tree like that of the arguments, by name."""
    dims, leaves, form = _open_dims(subject), *pytree.tree_flatten(call)
    at = -1
    marked: list[Any] = []
    for leaf in leaves:
        at += isinstance(leaf, Tensor)
        marked.append(dict.fromkeys(dims.get(at, ()), Dim.AUTO) if isinstance(leaf, Tensor) else None)
    args, kwargs = pytree.tree_unflatten(marked, form)
    return kwargs if kwargs else args


def _require_open(subject: ExportSubject, program: ExportedProgram) -> None:
    """Refuse a program that fixes a size which it was asked to leave open."""
    names = set(program.graph_signature.user_inputs)
    held = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    tensors = [node for node in held if isinstance(node.meta["val"], Tensor)]
    for role, places in subject.open.items():
        for at, dim in places:
            size = tensors[at].meta["val"].shape[dim]
            if isinstance(size, int):
                raise SizeError(f"torch.export fixes the {role}: dim {dim} of {tensors[at].name} at {size}")


def _require_runs(subject: ExportSubject, program: ExportedProgram) -> None:
    """Refuse a program that leaves a size open by its word alone: a loop over samples fixes their number."""
    args, kwargs = as_call(cloned(subject.other_inputs))
    try:
        with torch.no_grad():
            program.module()(*args, **kwargs)
    except Exception as error:
        raise SizeError(f"torch.export fixes a size: {reason(error)}") from error
