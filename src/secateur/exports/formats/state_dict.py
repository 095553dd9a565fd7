"""A folder with the tensors, and a short Python file that builds the pruned model without secateur."""

import ast
import inspect
import linecache
import pprint
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from secateur.capture.copies import copy_module
from secateur.capture.source import functions_in
from secateur.cut.slicing import set_field
from secateur.errors import ExportError
from secateur.exports import rebuild
from secateur.exports.format import ExportSubject, Format, formats
from secateur.plans.plan import Plan
from secateur.user_code import is_file_word

WEIGHTS = "model.safetensors"
REBUILD = "rebuild.py"

_BUILT = ("torchvision", "timm", "zoo", "hf")
"""Kinds of words whose models the reader can build."""

_EDITED = "<secateur "
"""What the file names of corrected functions begin with (`cut/edits.py`)."""


def write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Write the tensors, and the file that builds the model."""
    if subject.plan is None and any(map(_steps, subject.model.modules())):
        do = "pass the result of sc.prune"
        raise ExportError(f"nobody knows how this {type(subject.model).__name__} was cut", do=do)
    path.mkdir()
    held = {**dict(subject.model.named_parameters()), **dict(subject.model.named_buffers())}
    save_file({name: one.detach().clone().contiguous() for name, one in held.items()}, path / WEIGHTS)
    (path / REBUILD).write_text(_rebuild_text(subject))
    notes = [f"{REBUILD} is Python, which runs when the model is built from the folder"]
    if _here(subject) is not None:
        notes.append("read back in this process: no word says what builds the uncut model")
    return notes


def _rebuild_text(subject: ExportSubject) -> str:
    """The text of `exports/rebuild.py` with the integers and methods of a model in it."""
    source = Path(rebuild.__file__).read_text()
    head, line, rest = source.partition(f"# {'-' * 106}\n")
    empty, _, tail = rest.partition(line)
    writer = _Methods()
    for name, module in subject.model.named_modules():
        writer.add(name, module)
    attributes = _attributes(subject.model, subject.plan)
    first, second = (
        "ATTRIBUTES: dict[str, dict[str, Any]] = ",
        "METHODS: dict[str, list[dict[str, dict[str, tuple[Any, str]]]]] = ",
    )
    made = empty.replace(f"{first}{{}}", first + pprint.pformat(attributes, width=110, sort_dicts=False))
    made = made.replace(f"{second}{{}}", second + writer.table())
    functions = "".join(f"{text}\n\n\n" for text in writer.texts.values())
    head = head.replace("MyModel()", f"{type(subject.model).__name__}(...)")
    return f"{head}{line}\n{functions}{made.lstrip()}{line}{tail}"


def _attributes(model: nn.Module, plan: Plan | None) -> dict[str, dict[str, Any]]:
    """The integers that cuts have set, as they are in the model now."""
    found: dict[str, dict[str, Any]] = {}
    step = plan
    while step is not None:
        if step.dropped:
            do = "export it as pt2 or ONNX, or keep it with sc.save"
            raise ExportError(f"blocks were dropped from {step.model}: {', '.join(step.dropped[:3])}", do=do)
        for name, paths in step.attributes.items():
            module = model.get_submodule(name)
            found.setdefault(name, {}).update({path: _value(module, path.split(".")) for path in paths})
        for name in step.corrections:
            module = model.get_submodule(name)
            numbers = {key: held for key, held in vars(module).items() if key.startswith("_pruned_")}
            found.setdefault(name, {}).update(numbers)
        step = step.previous
    return {name: values for name, values in found.items() if values}


def _value(owner: Any, path: Sequence[str]) -> Any:
    for part in path:
        owner = owner[int(part)] if isinstance(owner, (tuple, list)) else getattr(owner, part)
    return tuple(owner) if isinstance(owner, torch.Size) else owner


def _steps(module: nn.Module) -> list[type]:
    """The classes that corrections have derived from a module's own, one after the other."""
    found: list[type] = []
    kind = type(module)
    while "_pruned_from" in vars(kind):
        found.insert(0, kind)
        kind = kind.__bases__[0]
    return found


class _Methods:
    """Collects the corrected methods of modules as the text of functions; modules of one class share them.

    Attributes:
        texts: By name of a function that makes the method, its text.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._table: dict[str, list[dict[str, dict[str, str]]]] = {}

    def add(self, name: str, module: nn.Module) -> None:
        """Add the methods of a module."""
        for kind in _steps(module):
            step: dict[str, dict[str, str]] = {}
            for made, base in (
                (kind, ""),
                *((one, one.__bases__[0].__qualname__) for one in kind.__bases__[1:]),
            ):
                old = made.__bases__[0]
                methods = {
                    key: self._entry(key, held, old) for key, held in vars(made).items() if _is_edited(held)
                }
                if methods:
                    step[base] = methods
            self._table.setdefault(name, []).append(step)

    def table(self) -> str:
        """The table of methods as Python."""
        lines = ["{"]
        for name, steps in self._table.items():
            lines.append(f"    {name!r}: [")
            for step in steps:
                lines.append("        {")
                for base, methods in step.items():
                    lines.append(f"            {base!r}: {{")
                    lines += [f"                {key!r}: {entry}," for key, entry in methods.items()]
                    lines.append("            },")
                lines.append("        },")
            lines.append("    ],")
        return "\n".join([*lines, "}"]) if self._table else "{}"

    def _entry(self, key: str, held: Any, kind: type) -> str:
        """A method as Python: a call of the function that makes it, and where the one is that it replaces."""
        was = ""
        if inspect.getattr_static(kind, key, None) is None:
            was = _place(held, sys.modules[kind.__module__])
        elif not isinstance(held, FunctionType) or not held.__code__.co_filename.startswith(_EDITED):
            do = "export it as pt2 or ONNX, or keep it with sc.save"
            raise ExportError(f"{kind.__qualname__}.{key} is decorated, and was corrected inside", do=do)
        file = held.__code__.co_filename
        if file not in self._names:
            base = f"_{kind.__name__}_{key.strip('_')}"
            free = next(
                one
                for at in range(len(self.texts) + 1)
                if (one := f"{base}_{at}" if at else base) not in self.texts
            )
            self._names[file], self.texts[free] = free, _function_text(free, file)
        return f"({self._names[file]}(), {was!r})"


def _is_edited(held: Any) -> bool:
    return any(one.__code__.co_filename.startswith(_EDITED) for one in functions_in(held))


def _place(helper: FunctionType, home: Any) -> str:
    """Where the function is whose place a helper takes: "package:name", or ":name" beside the method."""
    path = helper.__qualname__
    if getattr(home, path.partition(".")[0], None) is not None and helper.__module__ == home.__name__:
        return f":{path}"
    return f"{helper.__module__}:{path}"


def _function_text(name: str, file: str) -> str:
    """A function that returns a corrected method, as the correction wrote it."""
    tree = ast.parse("".join(linecache.getlines(file)))
    outer = tree.body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.name = name
    outer.args.defaults = [ast.Constant(None) for _ in outer.args.args]
    inner = outer.body[0]
    assert isinstance(inner, (ast.ClassDef, ast.FunctionDef))
    function = inner.body[0] if isinstance(inner, ast.ClassDef) else inner
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    arguments.defaults = [_constant(one) for one in arguments.defaults]
    arguments.kw_defaults = [None if one is None else _constant(one) for one in arguments.kw_defaults]
    made: ast.expr = ast.Name(inner.name, ast.Load())
    outer.body.append(
        ast.Return(ast.Attribute(made, function.name, ast.Load()) if inner is not function else made)
    )
    return ast.unparse(ast.fix_missing_locations(tree))


def _constant(default: ast.expr) -> ast.expr:
    """A default that needs no name; the model's own class has the real ones."""
    return default if isinstance(default, ast.Constant) else ast.Constant(None)


def _about(subject: ExportSubject) -> Mapping[str, Any]:
    """What builds the uncut model."""
    assert subject.plan is not None
    first = subject.plan.first
    word = first.source
    if is_file_word(word):
        file, _, name = word.partition(":")
        word = f"{Path(file).resolve()}:{name or 'model'}"
    return {
        "word": word,
        "arguments": dict(first.source_arguments),
        "places": [one for one in sys.path if one],
    }


def _here(subject: ExportSubject) -> Mapping[str, Any] | None:
    """The uncut model without its numbers, where no word says what builds it."""
    word = subject.plan.first.source if subject.plan is not None else ""
    if is_file_word(word) or word.partition(":")[0] in _BUILT:
        return None
    result, plan = subject.result, subject.plan
    if plan is None or (result is not None and Plan.of(result.original) is None and plan.previous is None):
        model = copy_module(subject.model if result is None else result.original)
    else:
        model = _widened(copy_module(subject.model), plan)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return {"model": model.cpu().eval()}


def _widened(model: nn.Module, plan: Plan) -> nn.Module:
    """A cut model as if it were uncut, but for the shapes: the code and the integers that it had."""
    for module in model.modules():
        steps = _steps(module)
        if steps:
            module.__class__ = steps[0].__bases__[0]
    step: Plan | None = plan
    while step is not None:
        for name, sizes in step.restricted_to(()).widths.items():
            for path, number in sizes.items():
                set_field(model.get_submodule(name), path.split("."), number)
        step = step.previous
    return model


formats.add(
    "state-dict",
    Format(
        what="safetensors and a short rebuild.py, for the model's own class without secateur",
        suffix="",
        write=write,
        reader="state_dict",
        about=_about,
        here=_here,
    ),
)
