"""Format: how a network is written as a file of another program, and what opens it again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from secateur.plans.plan import Plan
from secateur.registry import Registry
from secateur.result import Result

Open: TypeAlias = Mapping[str, tuple[tuple[int, int], ...]]
"""Sizes that may differ from run to run, by name ("batch", "size", "length"): the dims of the tensors among
the flattened inputs, each as the number of the tensor and the dim."""


@dataclass(frozen=True, eq=False)
class ExportSubject:
    """What is exported.

    Attributes:
        model: A copy on the CPU, in eval mode, without masks; a writer may change it.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs, on the CPU.
        plan: What was cut; None where that is not known.
        result: What `prune` returned; None where only a model was given.
        open: The sizes that the file shall leave open.
        other_inputs: Inputs of other sizes wherever they are open, which the model takes.
    """

    model: nn.Module
    example_inputs: Any
    plan: Plan | None = None
    result: Result | None = None
    open: Open = field(default_factory=dict)
    other_inputs: Any = None


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        what: One line for the help.
        suffix: Of its files; empty where it is a folder.
        write: Writes a subject to a path that does not exist, in an empty folder; returns notes for the user.
            What it writes beside the path goes along. Raises ExportError with the reason, SizeError where it
            cannot leave a size of `ExportSubject.open` open.
        reader: A script with a function `load(path, **about)` that returns name and version of the program,
            and what runs the file on arguments as the model's: the name of one in `readers/`, or its path. It
            imports nothing of secateur.
        extra: The extra of secateur that holds what it needs.
        fixes_sizes: Whether a file refuses inputs of sizes that it was not written for; others are compared
            at every size that the model takes.
        about: What `load` gets beside the path, as JSON can say it.
        outputs: How many tensors of the model's output the file computes, from the first; None for all.
        require: Raises ExportError, with the request that would fit, for a model whose cuts no file can hold.
            It is given the uncut model, and whether it will be cut with uniform=True.
        needs_norms: Why no file of it can hold a model whose batch norms were folded; empty where any can.
        here: What `load` gets instead, where the file can only be read in this process; None where it can be
            in a fresh one.
    """

    what: str
    suffix: str
    write: Callable[[ExportSubject, Path], Sequence[str]]
    reader: str | Path
    extra: str = ""
    fixes_sizes: bool = False
    about: Callable[[ExportSubject], Mapping[str, Any]] = lambda subject: {}
    outputs: int | None = None
    require: Callable[[nn.Module, bool], None] = lambda model, uniform: None
    needs_norms: str = ""
    here: Callable[[ExportSubject], Mapping[str, Any] | None] = lambda subject: None


formats: Registry[Format] = Registry("export format", "secateur.exports.formats", "secateur.domains")
"""By name; the folders of `secateur.domains` register theirs when they are imported."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and read back.

    Attributes:
        path: The file or folder.
        format: Name of the format.
        size_bytes: Of all its files.
        reader: The program that read it: "onnxruntime 1.22.0".
        errors: Largest difference from the model over the spread of the output, by the sizes of the inputs.
        notes: What else to know of it.
    """

    path: Path
    format: str
    size_bytes: int
    reader: str
    errors: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest of the differences."""
        return max(self.errors.values())

    def __str__(self) -> str:
        return f"{self.path}: {_size(self.size_bytes)}, read back by {self.reader}: {self.error:.2g}"


def _size(size_bytes: int) -> str:
    """Bytes for people.

    Example:
        >>> _size(812), _size(1_240_000)
        ('812 bytes', '1.2 MB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} bytes"
