"""TorchScript by tracing: the operators that one run called, for PyTorch in C++ and on phones."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call
from secateur.exports.format import ExportSubject, Format, formats
from secateur.exports.plain import PlainInputs, plain_output
from secateur.exports.program import needed_packages


def write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Trace a model on its example inputs."""
    _, notes = plain_output(subject)
    model = subject.model
    args, kwargs = as_call(subject.example_inputs)
    if kwargs or not all(isinstance(one, Tensor) for one in args):
        model = PlainInputs(model, subject.example_inputs)
        named = (
            f": {', '.join(name for name, one in kwargs.items() if isinstance(one, Tensor))}"
            if kwargs
            else ""
        )
        notes.append(f"takes its tensors by position{named}")
        args = tuple(one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor))
    with torch.no_grad():
        traced = torch.jit.trace(model, args, strict=False, check_trace=False)
    torch.jit.save(traced, path)
    return [*notes, *needed_packages(_namespaces(traced.inlined_graph.nodes()))]


def _namespaces(nodes: Iterable[Any]) -> set[str]:
    """Of the operators of a graph and of the blocks in it."""
    found: set[str] = set()
    for node in nodes:
        found.add(node.kind().partition("::")[0])
        for block in node.blocks():
            found |= _namespaces(block.nodes())
    return found


formats.add(
    "torchscript",
    Format(
        what="TorchScript by tracing, for PyTorch in C++; read back by PyTorch",
        suffix=".torchscript",
        write=write,
        reader="torchscript",
    ),
)
