"""Where an integer of a call came from: fields of modules, sizes of tensors, and arithmetic on them.

    o ::= number | field | size | (o op o)      op one of + - * // %

A literal that is bound to a dim and whose origin is known is an equation in the fields.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


@dataclass(frozen=True)
class Field:
    """An integer that a module holds.

    Attributes:
        module: Qualified name of the module.
        path: Attribute, and inside it fields of an object or positions of a tuple: ("config", "num_heads").
    """

    module: str
    path: tuple[str | int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, (self.module, *self.path) if self.module else self.path))


@dataclass(frozen=True)
class Size:
    """The size of a tensor's dim: a value of the record and a dim of it."""

    value: int
    dim: int


@dataclass(frozen=True)
class Made:
    """The result of an arithmetic operator."""

    operator: str
    left: "Origin"
    right: "Origin"


Origin: TypeAlias = int | Field | Size | Made


def evaluate(origin: Origin, value_of: Callable[[Field | Size], int]) -> int:
    """Compute an integer anew from other values of fields and sizes.

    Raises:
        ZeroDivisionError: A divisor has become zero.

    Example:
        >>> heads = Field("attention", ("num_heads",))
        >>> evaluate(Made("//", Size(0, 2), heads), {heads: 4, Size(0, 2): 64}.__getitem__)
        16
    """
    if isinstance(origin, int):
        return origin
    if isinstance(origin, Made):
        return _OPERATORS[origin.operator](evaluate(origin.left, value_of), evaluate(origin.right, value_of))
    return value_of(origin)


def sources_in(origin: Origin) -> Iterator[Field | Size]:
    """Yield the fields and sizes of an origin, one an occurrence."""
    if isinstance(origin, Made):
        yield from sources_in(origin.left)
        yield from sources_in(origin.right)
    elif not isinstance(origin, int):
        yield origin


def fields_in(origin: Origin) -> Iterator[Field]:
    """Yield the fields of an origin, one an occurrence."""
    return (source for source in sources_in(origin) if isinstance(source, Field))


def sizes_in(origin: Origin) -> Iterator[Size]:
    """Yield the sizes of an origin, one an occurrence."""
    return (source for source in sources_in(origin) if isinstance(source, Size))


def solve_for(
    field: Field, origin: Origin, wanted: int, value_of: Callable[[Field | Size], int]
) -> int | None:
    """Find the value of a field that makes an origin come out as wanted; None if no integer does.

    Args:
        field: Occurs exactly once in the origin.
        origin: The term.
        wanted: What it must evaluate to.
        value_of: The other fields and sizes.

    Example:
        >>> heads = Field("attention", ("num_heads",))
        >>> solve_for(heads, Made("//", 64, heads), 32, {}.__getitem__)
        2
    """
    while isinstance(origin, Made):
        if field in fields_in(origin.left):
            found = _undo_left(origin.operator, evaluate(origin.right, value_of), wanted)
            origin = origin.left
        else:
            found = _undo_right(origin.operator, evaluate(origin.left, value_of), wanted)
            origin = origin.right
        if found is None:
            return None
        wanted = found
    return wanted


def _undo_left(op: str, right: int, wanted: int) -> int | None:
    """The x of `x op right == wanted`."""
    if op == "+":
        return wanted - right
    if op == "-":
        return wanted + right
    if op == "*":
        return wanted // right if right and wanted % right == 0 else None
    return wanted * right if op == "//" else None


def _undo_right(op: str, left: int, wanted: int) -> int | None:
    """The x of `left op x == wanted`."""
    if op == "+":
        return wanted - left
    if op == "-":
        return left - wanted
    if op == "*":
        return wanted // left if left and wanted % left == 0 else None
    return left // wanted if op == "//" and wanted and left % wanted == 0 else None
