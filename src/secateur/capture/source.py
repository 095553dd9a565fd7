"""Source: the text of a function as a tree, and the places in it where numbers are passed.

A place is known by the function's qualified name, a digest of its text without decorators and comments, and
the number of a node in the order of `ast.walk`. It holds on any machine that has the same text, and brings no
code along.
"""

import ast
import inspect
import linecache
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from types import CodeType, FunctionType, MethodType
from typing import Any

from secateur.capture.leaves import FxLeaf

_MOST_DEEP = 6


class SourceMissingError(Exception):
    """The text of a function cannot be had, or does not show what was asked for; says why."""


@dataclass(frozen=True)
class SourceSpot:
    """An expression in the source of a function.

    Attributes:
        function: Qualified name of the function.
        digest: Of its source.
        node: Number of the expression in the order of `ast.walk`.
        text: The expression, for people.
    """

    function: str
    digest: str
    node: int
    text: str


class Source:
    """The tree of one function; nested functions belong to the one around them."""

    def __init__(self, tree: ast.FunctionDef, shift: int, code: CodeType) -> None:
        self.tree, self.shift, self.code = tree, shift, code
        self.tree.decorator_list = []
        self.nodes = list(ast.walk(self.tree))

    @cached_property
    def digest(self) -> str:
        """Of what the function says; comments, layout and decorators do not count."""
        return blake2b(ast.unparse(self.tree).encode(), digest_size=8).hexdigest()

    def spot(self, node: ast.AST) -> SourceSpot:
        """Where a node of the tree is."""
        at = next(index for index, one in enumerate(self.nodes) if one is node)
        return SourceSpot(self.code.co_qualname, self.digest, at, ast.unparse(node))

    def running(self, code: CodeType, instruction: int) -> ast.expr | ast.AugAssign:
        """The expression that an instruction of the function, or of one inside it, computes.

        Raises:
            SourceMissingError: The text has nothing of that kind there; it may have changed on the disk.
        """
        line, end_line, column, end_column = list(code.co_positions())[instruction // 2]
        if line is None or end_line is None:
            raise SourceMissingError(f"{self.code.co_qualname} was compiled without positions")
        end = (end_line - self.shift, end_column)
        for node in self.nodes:
            ends = (getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)) == end
            if ends and isinstance(node, (ast.Call, ast.Subscript)):
                return node
            starts = ends and (node.lineno, node.col_offset) == (line - self.shift, column)  # type: ignore[attr-defined]
            if starts and isinstance(node, (ast.BinOp, ast.AugAssign)):
                return node
        raise SourceMissingError(f"the source of {self.code.co_qualname} does not show the call")


@lru_cache(maxsize=1024)
def source_of(code: CodeType) -> Source:
    """The source of a function.

    Raises:
        SourceMissingError: There is none, or it is not that of a function.

    Example:
        >>> source_of(source_of.__wrapped__.__code__).tree.name
        'source_of'
    """
    lines = linecache.getlines(code.co_filename)
    try:
        tree, shift = _lambda(lines, code) if code.co_name == "<lambda>" else _function(lines, code)
    except (SyntaxError, IndexError, AttributeError, ValueError) as error:
        raise SourceMissingError(f"the source of {code.co_qualname} cannot be had") from error
    if not isinstance(tree, ast.FunctionDef):
        raise SourceMissingError(f"{code.co_qualname} is not written as a function of its own")
    return Source(tree, shift, code)


def _function(lines: Sequence[str], code: CodeType) -> tuple[ast.stmt, int]:
    """The tree of a function, and how many lines lie before it."""
    text = "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
    is_indented = text[:1].isspace()
    body = ast.parse(("if 1:\n" if is_indented else "\n") + text).body
    found = body[0].body if is_indented else body  # type: ignore[attr-defined]
    if len(found) != 1 or getattr(found[0], "name", "") != code.co_name:
        raise ValueError(code.co_name)
    return found[0], code.co_firstlineno - 2


def _lambda(lines: Sequence[str], code: CodeType) -> tuple[ast.stmt, int]:
    """The tree of a lambda as that of a function that returns its expression."""
    spans = set(code.co_positions())
    tree = ast.parse("".join(lines))
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and node.lineno == code.co_firstlineno
        and (node.body.lineno, node.body.end_lineno, node.body.col_offset, node.body.end_col_offset) in spans
    ]
    made = ast.FunctionDef("lambda_", found[0].args, [ast.Return(found[0].body)], [])
    return ast.fix_missing_locations(ast.copy_location(made, found[0])), 0


def encloses(outer: CodeType, inner: CodeType) -> bool:
    """Whether a function is another one or lies inside of its text."""
    return outer is inner or any(
        isinstance(held, CodeType) and encloses(held, inner) for held in outer.co_consts
    )


def functions_in(value: Any, depth: int = _MOST_DEEP) -> Iterator[FunctionType]:
    """Yield the Python functions that a method, a decorated function or a partial one runs.

    Example:
        >>> from functools import wraps
        >>> def plain(): ...
        >>> @wraps(plain)
        ... def wrapper(): return plain()
        >>> [function.__code__.co_name for function in functions_in(staticmethod(wrapper))]
        ['wrapper', 'plain']
    """
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        value = value.__func__
    if isinstance(value, FxLeaf):
        value = value.method
    if isinstance(value, partial):
        yield from functions_in(value.func, depth)
    if not depth or not isinstance(value, FunctionType):
        return
    yield value
    for held in (getattr(value, "__wrapped__", None), *_cells(value)):
        if isinstance(held, (FunctionType, MethodType, partial)) and held is not value:
            yield from functions_in(held, depth - 1)


def _cells(function: FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return found


def find_function(value: Any, is_it: Callable[[FunctionType], bool]) -> FunctionType | None:
    """The first function that a value runs and that is the one looked for."""
    return next((function for function in functions_in(value) if is_it(function)), None)


def resolve(function: FunctionType, expression: ast.expr, owner: Any = None) -> Any:
    """What a name, or an attribute of one, stands for in a function before it runs; None if nothing does.

    Args:
        function: Where the expression is written.
        expression: A name or attributes of one.
        owner: The module whose method it is; None for others.
    """
    if isinstance(expression, ast.Attribute):
        base = resolve(function, expression.value, owner)
        if base is not None and base is owner:
            found = vars(owner).get(expression.attr)
            return found if found is not None else inspect.getattr_static(type(owner), expression.attr, None)
        return None if base is None else getattr(base, expression.attr, None)
    if not isinstance(expression, ast.Name):
        return None
    code, name = function.__code__, expression.id
    if owner is not None and code.co_argcount and name == code.co_varnames[0]:
        return owner
    if name in code.co_varnames:
        return None
    if name in code.co_freevars:
        return dict(zip(code.co_freevars, _cells(function), strict=False)).get(name)
    return function.__globals__.get(name)


Steps = Sequence[tuple[str, Any, int]]
"""The way to a number in the arguments of a call: kind ("item", "key", "slice"), which one, of how many."""


def descend(expression: ast.expr, steps: Steps) -> tuple[ast.expr, Steps]:
    """Follow a way to a number into the text of an argument, as far as the text shows it.

    Returns:
        The innermost expression, and what is left of the way: nothing where the expression is the number.

    Example:
        >>> shape = ast.parse("x.shape[:-1] + (heads, width)", mode="eval").body
        >>> found, rest = descend(shape, [("item", 3, 4)])
        >>> ast.unparse(found), rest
        ('width', [])
    """
    while steps:
        inner = _part(expression, *steps[0])
        if inner is None:
            break
        expression, steps = inner[0], [*inner[1], *steps[1:]]
    return expression, steps


def _part(expression: ast.expr, kind: str, at: Any, of: int) -> tuple[ast.expr, Steps] | None:
    if kind == "slice" and isinstance(expression, ast.Slice):
        part = getattr(expression, ("lower", "upper", "step")[at])
        return None if part is None else (part, [])
    if kind != "item":
        return None
    if isinstance(expression, (ast.Tuple, ast.List)):
        found = _element(expression.elts, at, of)
        return None if found is None else (found, [])
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
        left, right = _length(expression.left), _length(expression.right)
        if right is not None and at >= of - right:
            return expression.right, [("item", at - (of - right), right)]
        if left is not None and at < left:
            return expression.left, [("item", at, left)]
    return None


def _length(expression: ast.expr) -> int | None:
    """The length of a display; None if it is not known from the text."""
    if isinstance(expression, (ast.Tuple, ast.List)):
        plain = not any(isinstance(part, ast.Starred) for part in expression.elts)
        return len(expression.elts) if plain else None
    return None


def _element(parts: Sequence[ast.expr], at: int, of: int) -> ast.expr | None:
    """The element of a display, whose starred parts may give any number of items."""
    stars = [index for index, part in enumerate(parts) if isinstance(part, ast.Starred)]
    first, last = (stars[0], stars[-1]) if stars else (len(parts), -1)
    if at < first:
        return parts[at]
    behind = at - of + len(parts)
    return parts[behind] if behind > last else None
