"""A program of `torch.export`: the model's operators and weights, for PyTorch without the model's Python."""

from collections.abc import Sequence
from pathlib import Path

import torch

from secateur.exports.format import ExportSubject, Format, formats
from secateur.exports.plain import plain_output
from secateur.exports.program import exported_program, needed_packages


def write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Write a model as a program."""
    _, notes = plain_output(subject)
    program = exported_program(subject)
    needed = needed_packages(
        node.target.namespace
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )
    torch.export.save(program, path)
    return [*notes, *needed]


formats.add(
    "pt2",
    Format(
        what="torch.export, for PyTorch without the model's Python; read back by PyTorch",
        suffix=".pt2",
        write=write,
        reader="pt2",
        fixes_sizes=True,
    ),
)
