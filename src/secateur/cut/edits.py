"""Edits: the user's own functions with some expressions replaced by numbers that the module holds.

Where code derives a width from the shape of its input (`B, N, C = x.shape; ...; x.reshape(B, N, C)`), no
attribute can tell it of a cut. The function is compiled anew from its own source with that expression
replaced; what traces, exports, compiles or checkpoints the model sees ordinary code. Functions that the
method calls become methods of the module where an expression inside of them is replaced.
"""

import __future__

import ast
import copy
import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from secateur.capture.leaves import FxLeaf, leaf_if_wrapped
from secateur.capture.places import CodePlace, method_of
from secateur.capture.source import Source, SourceMissingError, SourceSpot, find_function, resolve, source_of


@dataclass(frozen=True)
class Edit:
    """One expression to replace.

    Attributes:
        place: Where it is.
        replace: Makes the new expression of the old one and the expression for the module.
    """

    place: CodePlace
    replace: Callable[[ast.expr, ast.expr], ast.expr]


def edited_methods(module: nn.Module, edits: Sequence[Edit]) -> list[tuple[type | None, dict[str, Any]]]:
    """Compile methods of a module anew.

    Args:
        module: The module; not changed.
        edits: What to replace in them.

    Returns:
        For each base class that has some of the methods, the new ones by name; None stands for the module's
        own class.

    Raises:
        SourceMissingError: The code is not the one that the edits were made for.
    """
    found: dict[type | None, dict[str, Any]] = {}
    by_function: dict[tuple[str, str], list[Edit]] = {}
    for edit in edits:
        first = (edit.place.calls or (edit.place.expression,))[0]
        by_function.setdefault((edit.place.method, first.function), []).append(edit)
    for (method, _), parts in by_function.items():
        base, held, function = _find_method(module, method, parts[0].place)
        editor = _Editor(module)
        made = editor.edit(function, parts)
        members = found.setdefault(base, {})
        members[method] = _rebuilt(held, function, made)
        found.setdefault(None, {}).update(editor.helpers)
    order = {base: at for at, base in enumerate(type(module).__mro__)}
    return sorted(found.items(), key=lambda item: -1 if item[0] is None else order[item[0]])


def _find_method(module: nn.Module, method: str, place: CodePlace) -> tuple[type | None, Any, FunctionType]:
    """The class that holds the method in the order of resolution, what it holds, and the function in it."""
    spot = (place.calls or (place.expression,))[0]
    kind = type(module)
    own = vars(module).get(method)
    for base, value in [(None, own), *((base, vars(base).get(method)) for base in kind.__mro__)]:
        function = find_function(value, lambda function: _is_from(function, spot))
        if function is not None:
            held = value.__func__ if isinstance(value, MethodType) else value
            return (None if base is kind else base), held, function
    raise SourceMissingError(f"{kind.__name__}.{method} is not written as it was when the cut was made")


def _is_from(function: FunctionType, spot: SourceSpot) -> bool:
    if function.__code__.co_qualname != spot.function:
        return False
    try:
        return source_of(function.__code__).digest == spot.digest
    except SourceMissingError:
        return False


class _Editor:
    """Edits a method and what it calls.

    Args:
        module: The module that the method is of.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.helpers: dict[str, Any] = {}

    def edit(self, function: FunctionType, edits: Sequence[Edit], name: str = "") -> FunctionType:
        """The function with some expressions replaced; with a name, as a method of that name."""
        source = source_of(function.__code__)
        tree = copy.deepcopy(source.tree)
        nodes = list(ast.walk(tree))
        is_method = method_of(self.module, function.__code__) is not None
        own = ast.Name(function.__code__.co_varnames[0] if is_method else _free_name(nodes), ast.Load())
        changes: dict[ast.AST, list[Edit]] = {}
        callees: dict[ast.AST, list[Edit]] = {}
        for edit in edits:
            calls, place = edit.place.calls, edit.place
            node = _node(source, nodes, (calls or (place.expression,))[0])
            rest = replace(edit, place=replace(place, calls=calls[1:]))
            (callees if calls else changes).setdefault(node, []).append(rest)
        for call, parts in callees.items():
            assert isinstance(call, ast.Call)
            helper = self._helper(function, call, parts)
            call.func = ast.Attribute(own, helper, ast.Load())
        _Replacing(changes, own).generic_visit(tree)
        made = name or function.__name__
        if name:
            tree.name = name
            if not is_method:
                (tree.args.posonlyargs or tree.args.args).insert(0, ast.arg(own.id))
        return _compiled(function, tree, made)

    def _helper(self, function: FunctionType, call: ast.Call, edits: Sequence[Edit]) -> str:
        """Make a method of a function that is called, and tell its name."""
        spot = (edits[0].place.calls or (edits[0].place.expression,))[0]
        is_method = method_of(self.module, function.__code__) is not None
        callee = resolve(function, call.func, self.module if is_method else None)
        found = find_function(callee, lambda one: _is_from(one, spot))
        if found is None:
            raise SourceMissingError(
                f"`{ast.unparse(call.func)}` is not the function it was when the cut was made"
            )
        plain = found.__code__.co_name.strip("_<>")
        taken = {*dir(type(self.module)), *self.helpers}
        name = next(one for at in range(len(taken) + 1) if (one := f"_pruned_{plain}_{at}") not in taken)
        self.helpers[name] = None
        held = callee.__func__ if isinstance(callee, (MethodType, staticmethod)) else callee
        made = _rebuilt(held, found, self.edit(found, edits, name))
        self.helpers[name] = leaf_if_wrapped(made, function, call.func)
        return name


def _node(source: Source, nodes: Sequence[ast.AST], spot: SourceSpot) -> ast.AST:
    """The node of a fresh tree at a spot."""
    if source.digest != spot.digest or spot.node >= len(nodes) or ast.unparse(nodes[spot.node]) != spot.text:
        raise SourceMissingError(f"{spot.function} is not written as it was when the cut was made")
    return nodes[spot.node]


def _free_name(nodes: Sequence[ast.AST]) -> str:
    taken = {node.id for node in nodes if isinstance(node, ast.Name)}
    taken |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    name = "module"
    while name in taken:
        name = f"_{name}"
    return name


_NEVER = ("torch.backends.mha.get_fastpath_enabled", "has_torch_function")
"""Questions of PyTorch's code that are answered no: fused attention computes the width of a head itself, and
what takes over a whole call sees none of the edits in it."""


class _Replacing(ast.NodeTransformer):
    """Replaces expressions, the innermost first; several items of one expression at once."""

    def __init__(self, changes: Mapping[ast.AST, Sequence[Edit]], own: ast.Name) -> None:
        self.changes, self.own = changes, own

    def visit(self, node: ast.AST) -> ast.AST:
        edits = self.changes.get(node, ())
        super().generic_visit(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in _NEVER:
            return ast.Constant(False)
        if not edits or not isinstance(node, ast.expr):
            return node
        if edits[0].place.item is None:
            return edits[0].replace(node, self.own)
        if isinstance(edits[0].place.item, str):
            return _slice(node, edits, self.own)
        return _sequence(node, {int(edit.place.item or 0): edit for edit in edits}, self.own)


def _once(node: ast.expr) -> tuple[ast.expr, ast.expr]:
    """An expression to write first, and one for its value from then on."""
    if isinstance(node, ast.Name):
        return node, node
    name = ast.Name("pruned_items", ast.Load())
    return ast.NamedExpr(ast.Name("pruned_items", ast.Store()), node), name


def _slice(node: ast.expr, edits: Sequence[Edit], own: ast.expr) -> ast.expr:
    """`slice(s.start, NUMBER, s.step)`."""
    wanted = {edit.place.item: edit for edit in edits}
    value, rest = _once(node)
    parts: list[ast.expr] = []
    for part in ("start", "stop", "step"):
        old: ast.expr = ast.Attribute(value, part, ast.Load())
        parts.append(wanted[part].replace(old, own) if part in wanted else old)
        value = rest
    return ast.Call(ast.Name("slice", ast.Load()), parts, [])


def _sequence(node: ast.expr, wanted: Mapping[int, Edit], own: ast.expr) -> ast.expr:
    """`(*shape[:2], NUMBER, *shape[3:])`."""
    value, rest = _once(node)
    parts: list[ast.expr] = []
    begin = 0
    for at in sorted(wanted):
        items = ast.Subscript(value, ast.Slice(ast.Constant(begin), ast.Constant(at)), ast.Load())
        item = ast.Subscript(rest, ast.Constant(at), ast.Load())
        parts += [ast.Starred(items, ast.Load()), wanted[at].replace(item, own)]
        value, begin = rest, at + 1
    items = ast.Subscript(rest, ast.Slice(ast.Constant(begin)), ast.Load())
    return ast.Tuple([*parts, ast.Starred(items, ast.Load())], ast.Load())


def _compiled(function: FunctionType, tree: ast.FunctionDef, name: str) -> FunctionType:
    """The function that a changed tree says, with the globals, cells and defaults of the old one.

    The name is the one that the module has it by: `torch.jit.script` compiles methods under their own names.
    """
    code = function.__code__
    owner = code.co_qualname.split(".")[-2:-1]
    wrapped: ast.stmt = tree
    if owner and owner != ["<locals>"]:  # names with two underscores depend on the class
        wrapped = ast.ClassDef(owner[0], [], [], [tree], [])
    cells = [name for name in code.co_freevars if name != "__class__"]
    arguments = ast.arguments([], [ast.arg(name) for name in cells], None, [], [], None, [])
    outer = ast.FunctionDef("source", arguments, [wrapped], [])
    text = ast.unparse(ast.fix_missing_locations(ast.Module([outer], [])))
    filename = f"<secateur {code.co_qualname} {blake2b(text.encode(), digest_size=6).hexdigest()}>"
    try:
        compiled = compile(text, filename, "exec", dont_inherit=True, flags=_future_of(code))
    except SyntaxError as error:
        raise SourceMissingError(f"{code.co_qualname} cannot be written otherwise: {error.msg}") from error
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    found = next(one for one in _codes(compiled) if one.co_name == tree.name and one.co_varnames)
    found = found.replace(co_qualname=code.co_qualname)
    old = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    made = FunctionType(
        found,
        function.__globals__,
        name,
        function.__defaults__,
        tuple(old[cell] for cell in found.co_freevars),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__annotations__ = function.__annotations__
    made.__module__, made.__doc__, made.__qualname__ = (
        function.__module__,
        function.__doc__,
        function.__qualname__,
    )
    return made


def _future_of(code: CodeType) -> int:
    """The `__future__` flags that a function was compiled with."""
    flags = (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
    return sum(flag for flag in set(flags) if code.co_flags & flag and flag > _OF_FUNCTIONS)


_OF_FUNCTIONS = 0xFFFF
"""Lower flags say what kind of function it is."""


def _codes(code: CodeType) -> Any:
    for held in code.co_consts:
        if isinstance(held, CodeType):
            yield held
            yield from _codes(held)


def _rebuilt(held: Any, old: FunctionType, new: FunctionType) -> Any:
    """What holds a function, a decorated one for example, with a new one inside."""
    if held is old:
        return new
    if isinstance(held, (staticmethod, classmethod)):
        return type(held)(_rebuilt(held.__func__, old, new))
    if isinstance(held, FxLeaf):
        return FxLeaf(_rebuilt(held.method, old, new), held.space, held.name)
    if not isinstance(held, FunctionType) or find_function(held, lambda one: one is old) is None:
        return held
    cells = tuple(_rebuilt_cell(cell, old, new) for cell in held.__closure__ or ())
    made = FunctionType(held.__code__, held.__globals__, held.__name__, held.__defaults__, cells)
    made.__kwdefaults__ = held.__kwdefaults__
    made.__dict__.update(held.__dict__)
    if "__wrapped__" in made.__dict__:
        made.__dict__["__wrapped__"] = _rebuilt(made.__dict__["__wrapped__"], old, new)
    made.__module__, made.__doc__, made.__qualname__ = held.__module__, held.__doc__, held.__qualname__
    return made


def _rebuilt_cell(cell: CellType, old: FunctionType, new: FunctionType) -> CellType:
    try:
        value = cell.cell_contents
    except ValueError:
        return cell
    made = _rebuilt(value, old, new)
    return cell if made is value else CellType(made)
