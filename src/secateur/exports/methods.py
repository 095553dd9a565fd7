"""Corrected methods as text: what code without secateur needs to follow a cut as the model here does."""

import ast
import inspect
import linecache
import sys
from types import FunctionType
from typing import Any

from torch import nn

from secateur.capture.leaves import FxLeaf
from secateur.capture.source import functions_in
from secateur.cut.corrections import PREFIX
from secateur.errors import ExportError

_EDITED = "<secateur "
"""What the file names of corrected functions begin with (`cut/edits.py`)."""


def steps_of(module: nn.Module) -> list[type]:
    """The classes that corrections have derived from a module's own, one after the other."""
    found: list[type] = []
    kind = type(module)
    while "_pruned_from" in vars(kind):
        found.insert(0, kind)
        kind = kind.__bases__[0]
    return found


def numbers_of(module: nn.Module) -> dict[str, Any]:
    """The numbers that the corrected code of a module reads from it."""
    return {key: held for key, held in vars(module).items() if key.startswith(PREFIX)}


class Methods:
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
        for kind in steps_of(module):
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

    def functions(self) -> str:
        """The functions as Python."""
        return "".join(f"{text}\n\n\n" for text in self.texts.values())

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
        held = held.method if isinstance(held, FxLeaf) else held
        if inspect.getattr_static(kind, key, None) is None:
            was = _place(held, sys.modules[kind.__module__])
        inner = inspect.unwrap(held) if isinstance(held, FunctionType) else None
        if inner is None or not inner.__code__.co_filename.startswith(_EDITED):
            do = "prune with corrections=False, or export it as pt2 or ONNX, or keep it with sc.save"
            raise ExportError(f"{kind.__qualname__}.{key} is decorated, and was corrected inside", do=do)
        file = inner.__code__.co_filename
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
