"""Constructors: what the integers of a module have to do with those of its children, by `__init__`.

`self.width = width` beside `nn.Conv2d(3, 2 * width, 1)` is an equation, `conv.out_channels = 2 * width`, by
which an integer follows its children although no record reads it. The source is read, not run: a name that is
assigned in a branch or a loop stands for a number of its own.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from torch import nn

from secateur.capture.source import SourceMissingError, resolve, source_of
from secateur.graph.origin import Field, Made, Origin, evaluate, fields_in, solve_for

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}
_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass
class Constructed:
    """What a constructor says.

    Attributes:
        attributes: The term of each attribute that is assigned.
        children: By path of the child and parameter of its constructor: the term that is passed.
    """

    attributes: dict[str, Origin] = field(default_factory=dict)
    children: dict[tuple[str, str], Origin] = field(default_factory=dict)


def constructed(module: nn.Module) -> Constructed:
    """Read the constructor of a module.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.width = width
        ...         self.conv = nn.Conv2d(3, 2 * width, 1)
        >>> found = constructed(Block(4))
        >>> str(found.attributes["width"]), found.children["conv", "in_channels"]
        ('width', 3)
    """
    reader = _Reader(module)
    function = _init_of(type(module), 0)
    if function is not None:
        reader.read(function, {})
    return reader.found


def _init_of(kind: type, after: int) -> FunctionType | None:
    """The constructor of a class or of one of its bases, in the order of resolution."""
    for base in kind.__mro__[after:]:
        held = vars(base).get("__init__")
        if base is nn.Module or base.__module__.startswith("torch.nn"):
            return None
        if isinstance(held, FunctionType):
            return held
    return None


class _Reader:
    """Reads the constructors of one module's classes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.found = Constructed()
        self.function: FunctionType | None = None
        self.names: dict[str, Origin] = {}
        self.appended: dict[str, list[tuple[ast.expr, dict[str, Origin]]]] = {}

    def read(self, function: FunctionType, given: Mapping[str, Origin]) -> None:
        """Read one constructor whose parameters stand for some terms."""
        try:
            tree = source_of(function.__code__).tree
        except SourceMissingError:
            return
        before = self.function, self.names
        code = function.__code__
        parameters = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        self.function = function
        self.names = {name: given.get(name, _symbol(name)) for name in parameters}
        self._block(tree.body)
        self.function, self.names = before

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        inner = [*_blocks(statement)]
        if inner:
            assigned = {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            for block in inner:
                self.names |= {name: _symbol(f"{name}:{block[0].lineno}") for name in assigned}
                self._block(block)
            self.names |= {name: _symbol(f"{name}:{statement.lineno}:after") for name in assigned}
            return
        for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call)):
            self._base(call)
            if isinstance(call.func, ast.Attribute) and call.func.attr == "append" and len(call.args) == 1:
                made = self.appended.setdefault(ast.unparse(call.func.value), [])
                made.append((call.args[0], dict(self.names)))
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.AugAssign):
            self._assign(statement.target, None)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and value is not None:
            for target in getattr(statement, "targets", None) or [statement.target]:  # type: ignore[union-attr]
                self._assign(target, value)

    def _assign(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [None] * len(target.elts)
            for part, one in zip(target.elts, values, strict=False):
                self._assign(part, one)
        elif isinstance(target, ast.Name):
            self.names[target.id] = self._term(value, f"{target.id}:{target.lineno}")
        elif _is_own(target):
            attribute = target.attr  # type: ignore[attr-defined]
            self.found.attributes[attribute] = self._term(value, f"self.{attribute}")
            if value is not None:
                self._child(attribute, value)

    def _term(self, value: ast.expr | None, name: str) -> Origin:
        """The term of an expression; a symbol of its own where it is none."""
        if isinstance(value, ast.Constant) and type(value.value) is int:
            return value.value
        if isinstance(value, ast.Name):
            return self.names.get(value.id, _symbol(value.id))
        if isinstance(value, ast.Attribute):
            own = self.found.attributes.get(value.attr) if _is_own(value) else None
            return own if own is not None else _symbol(ast.unparse(value))
        if isinstance(value, ast.BinOp) and type(value.op) in _OPERATORS:
            left, right = self._term(value.left, name), self._term(value.right, name)
            return Made(_OPERATORS[type(value.op)], left, right)
        if value is None:
            return _symbol(name)
        names = [node.id for node in ast.walk(value) if isinstance(node, ast.Name)]
        return _symbol(f"{ast.unparse(value)} {[str(self.names.get(name, '')) for name in names]}")

    def _base(self, call: ast.Call) -> None:
        """Read the constructor of a base class that is called."""
        if not (isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"):
            return
        assert self.function is not None
        order = type(self.module).__mro__
        holders = (index for index, base in enumerate(order) if vars(base).get("__init__") is self.function)
        at = next(holders, None)
        function = None if at is None else _init_of(type(self.module), at + 1)
        if function is not None:
            self.read(function, self._bound(call, function))

    def _bound(self, call: ast.Call, function: FunctionType, skipped: int = 1) -> dict[str, Origin]:
        """The terms that a call passes, by parameter; the first ones may be passed by Python."""
        code = function.__code__
        parameters = code.co_varnames[skipped : code.co_argcount]
        found: dict[str, Origin] = {}
        for name, arg in zip(parameters, call.args, strict=False):
            if isinstance(arg, ast.Starred):
                break
            found[name] = self._term(arg, name)
        return found | {one.arg: self._term(one.value, one.arg) for one in call.keywords if one.arg}

    def _child(self, path: str, value: ast.expr) -> None:
        """Read the calls that make a child, and those inside of containers."""
        child: Any = self.module
        for step in path.split("."):
            child = getattr(child, step, None)
        if not isinstance(child, nn.Module) or not isinstance(value, ast.Call):
            return
        made_by = resolve(self.function, value.func) if self.function else None
        if isinstance(child, _CONTAINERS) and made_by is type(child):
            for inner, part, names in self._inside(child, value):
                before, self.names = self.names, names
                self._child(f"{path}.{inner}", part)
                self.names = before
            return
        is_made_by_function = isinstance(made_by, FunctionType)
        if made_by is None or made_by is type(child) or is_made_by_function:  # a factory that is a variable
            function: Any = made_by if is_made_by_function else type(child).__init__
            bound = self._bound(value, function, 0 if is_made_by_function else 1)
            self.found.children |= {(path, name): term for name, term in bound.items()}

    def _inside(
        self, container: nn.Module, call: ast.Call
    ) -> Iterator[tuple[str, ast.expr, dict[str, Origin]]]:
        """The expressions of a container's children, where each has one, or all have the same."""
        names = list(container._modules)
        args = [(arg.value if isinstance(arg, ast.Starred) else arg, self.names) for arg in call.args]
        if len(args) == 1:
            only = args[0][0]
            if isinstance(only, (ast.List, ast.Tuple)):
                args = [(part, self.names) for part in only.elts]
            elif isinstance(only, (ast.ListComp, ast.GeneratorExp)):
                args = [(only.elt, self.names)] * len(names)
            elif ast.unparse(only) in self.appended:
                args = self.appended[ast.unparse(only)]
                args = args * len(names) if len(args) == 1 else args
        if len(args) == len(names):
            yield from ((name, part, known) for name, (part, known) in zip(names, args, strict=True))


def is_of_torch(module: nn.Module) -> bool:
    """Whether a module is a layer of `torch.nn`, or of a class derived from one."""
    return any(
        base.__module__.startswith("torch.nn.") and base is not nn.Module for base in type(module).__mro__
    )


def _symbol(name: str) -> Field:
    return Field("", (name,))


def _is_own(target: ast.expr) -> bool:
    return (
        isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    )


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list) and block and not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield block


def _nothing(_: Any) -> int:
    raise KeyError("no other symbol is in the term")


Values = Mapping[str, Mapping[str, int]]
"""By module name and attribute: its new number."""


class Solver:
    """Finds integers of modules from those of their children.

    Args:
        model: The uncut model.
        known: What is known to change.
    """

    def __init__(self, model: nn.Module, known: Values) -> None:
        self.model = model
        self.known = known
        self._read: dict[str, Constructed] = {}
        self._solved: dict[str, dict[Field, tuple[int, int]]] = {}

    def attribute(self, name: str, attribute: str) -> int | None:
        """The new number of an attribute, as all children tell it; None if none or not all do."""
        term = self._of(name).attributes.get(attribute)
        if term is None or isinstance(term, int):
            return None
        pair = self._evaluate(name, term)
        before = getattr(self.model.get_submodule(name), attribute)
        return pair[1] if pair is not None and pair[0] == before else None

    def _of(self, name: str) -> Constructed:
        if name not in self._read:
            self._read[name] = constructed(self.model.get_submodule(name))
        return self._read[name]

    def _evaluate(self, name: str, term: Origin) -> tuple[int, int] | None:
        """A term before and after."""
        values = self._symbols(name)
        if not all(symbol in values for symbol in fields_in(term)):
            return None
        before = evaluate(term, lambda one: values[one][0])  # type: ignore[index]
        return before, evaluate(term, lambda one: values[one][1])  # type: ignore[index]

    def _symbols(self, name: str) -> dict[Field, tuple[int, int]]:
        """The symbols of a constructor on which its children agree, before and after."""
        if name in self._solved:
            return self._solved[name]
        self._solved[name] = {}
        found: dict[Field, set[tuple[int, int]]] = {}
        for (path, parameter), term in self._of(name).children.items():
            symbols = set(fields_in(term))
            pair = self._parameter(f"{name}.{path}".lstrip("."), parameter) if len(symbols) == 1 else None
            if pair is None or len([*fields_in(term)]) != 1:
                continue
            (symbol,) = symbols
            solved = [solve_for(symbol, term, number, _nothing) for number in pair]
            found.setdefault(symbol, set()).add((solved[0] or 0, solved[1] or 0))
        self._solved[name] = {
            symbol: pair for symbol, (pair, *others) in found.items() if not others and all(pair)
        }
        return self._solved[name]

    def _parameter(self, name: str, parameter: str) -> tuple[int, int] | None:
        """A parameter of a child's constructor, before and after."""
        child = self.model.get_submodule(name)
        before = getattr(child, parameter, None)
        if is_of_torch(child):
            if type(before) is not int:
                return None
            return before, self.known.get(name, {}).get(parameter, before)
        return self._symbols(name).get(_symbol(parameter))
