"""Equations: an operator's coupling, written as text.

    conv2d    input(n (g i) h w), weight((g o) i p q), bias((g o)) -> (n (g o) y x)

Each operand names its dims; a letter is an axis of this one call, `(g o)` a row-major product, `(a + b)` a
concatenation, a number a fixed size, `...` any number of broadcast dims. Letters that return are the same
axis. A letter that occurs once in the whole equation is no channel: a kernel or spatial dim, protected.

    grammar:  equation = operand ("," operand)* "->" output ("," output)*
              operand  = name "(" dim* ")"          output = "(" dim* ")"
              dim      = letter | number | "..." | "(" dim* ")" | "(" dim ("+" dim)+ ")"
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from typing import TypeAlias

from secateur.graph.axes import Expr, axis, product, total


@dataclass(frozen=True)
class Letter:
    """An axis of the call."""

    name: str


@dataclass(frozen=True)
class Number:
    """A fixed size."""

    size: int


@dataclass(frozen=True)
class Compound:
    """A product (`*`) or a concatenation (`+`) of dims."""

    sign: str
    parts: tuple["Dim", ...]


@dataclass(frozen=True)
class Dots:
    """Any number of broadcast dims."""


Dim: TypeAlias = Letter | Number | Compound | Dots

_TOKEN = re.compile(r"\s*(\.\.\.|->|[A-Za-z_]\w*|\d+|[(),+])")


@dataclass(frozen=True)
class Equation:
    """A parsed equation.

    Attributes:
        text: What was parsed.
        operands: The dims of each named operand.
        outputs: The dims of each output.
        once: The letters that occur a single time.

    Example:
        >>> sorted(parse("input(... i), weight(o i), bias(o) -> (... o)").once)
        []
        >>> sorted(parse("input(n c h) -> (n c y)").once)
        ['h', 'y']
    """

    text: str
    operands: Mapping[str, tuple[Dim, ...]]
    outputs: tuple[tuple[Dim, ...], ...]
    once: frozenset[str]

    @cached_property
    def whole(self) -> "Equation":
        """The same with the outputs as further operands, "->0" and on."""
        outputs = {f"->{index}": dims for index, dims in enumerate(self.outputs)}
        return replace(self, operands={**self.operands, **outputs})

    @cached_property
    def contracted(self) -> frozenset[Dim]:
        """The dims that the operator sums over: channels, none of which returns."""
        returned = {name for dims in self.outputs for dim in dims for name in letters(dim)}
        named = {dim: set(letters(dim)) for dims in self.operands.values() for dim in dims}
        return frozenset(dim for dim, names in named.items() if names - self.once and not names & returned)


@cache
def parse(text: str) -> Equation:
    """Parse an equation.

    Raises:
        ValueError: The text does not follow the grammar.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+", "", text):
        raise ValueError(f"equation has unknown characters: {text}")
    reader = _Reader(tokens)
    operands: dict[str, tuple[Dim, ...]] = {}
    while reader.peek() != "->":
        name = reader.take()
        operands[name] = reader.dims()
        if reader.peek() == ",":
            reader.take()
    reader.take("->")
    outputs = [reader.dims()]
    while reader.peek() == ",":
        reader.take()
        outputs.append(reader.dims())
    if reader.peek():
        raise ValueError(f"equation goes on after its outputs: {text}")
    seen = Counter(name for dims in [*operands.values(), *outputs] for dim in dims for name in letters(dim))
    once = frozenset(name for name, times in seen.items() if times == 1)
    return Equation(text, operands, tuple(outputs), once)


class _Reader:
    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise ValueError(f"equation: expected '{expected or 'more'}', found '{token}'")
        self.at += 1
        return token

    def dims(self) -> tuple[Dim, ...]:
        self.take("(")
        found: list[Dim] = []
        while self.peek() != ")":
            found.append(self.dim())
        self.take(")")
        return tuple(found)

    def dim(self) -> Dim:
        token = self.peek()
        if token != "(":
            self.take()
            if token == "...":
                return Dots()
            if token.isdigit():
                return Number(int(token))
            if not token.isidentifier():
                raise ValueError(f"equation: expected a dim, found '{token}'")
            return Letter(token)
        self.take("(")
        parts = [self.dim()]
        sign = "+" if self.peek() == "+" else "*"
        while self.peek() != ")":
            if sign == "+":
                self.take("+")
            parts.append(self.dim())
        self.take(")")
        return Compound(sign, tuple(parts))


def letters(dim: Dim) -> Iterator[str]:
    """Name the letters of a dim, one entry an occurrence."""
    if isinstance(dim, Letter):
        yield dim.name
    elif isinstance(dim, Compound):
        for part in dim.parts:
            yield from letters(part)


def solve_sizes(equation: Equation, shapes: Mapping[str, Sequence[int]], sizes: dict[str, int]) -> None:
    """Complete the sizes of letters from the shapes of the operands present.

    Args:
        equation: The equation.
        shapes: The shape of each operand that is present; the others are skipped.
        sizes: What is known already (`groups`); completed in place.

    Raises:
        ValueError: A shape does not fit, or a size stays unknown.

    Example:
        >>> sizes = {"g": 2}
        >>> solve_sizes(parse("input(n (g i)), weight((g o) i) -> (n (g o))"),
        ...             {"input": (5, 8), "weight": (6, 4)}, sizes)
        >>> sizes
        {'g': 2, 'n': 5, 'i': 4, 'o': 3}
    """
    pairs = [
        (dim, size)
        for name, dims in equation.operands.items()
        if name in shapes
        for dim, size in zip(dims, _without_dots(dims, shapes[name], name), strict=True)
        if not isinstance(dim, Dots)
    ]
    while pairs:
        waiting = [pair for pair in pairs if not _learn(*pair, sizes)]
        if len(waiting) == len(pairs):
            raise ValueError(f"sizes cannot be solved in {equation.text}: {waiting}")
        pairs = waiting


def _without_dots(dims: Sequence[Dim], shape: Sequence[int], name: str) -> list[int]:
    """The sizes opposite to each dim; a placeholder opposite to the dots."""
    spare = len(shape) - len(dims)
    dotted = [index for index, dim in enumerate(dims) if isinstance(dim, Dots)]
    if dotted and spare >= -1:
        at = dotted[0]
        return [*shape[:at], 0, *shape[at + spare + 1 :]]
    if spare:
        raise ValueError(f"{name} has {len(shape)} dims, the equation {len(dims)}")
    return list(shape)


def _learn(dim: Dim, size: int, sizes: dict[str, int]) -> bool:
    """Use one dim's size; False while more than one of its letters is unknown."""
    unknown = [name for name in letters(dim) if name not in sizes]
    if len(set(unknown)) > 1:
        return False
    if unknown:
        sizes[unknown[0]] = _missing(dim, size, sizes)
    if size_of(dim, sizes) != size:
        raise ValueError(f"a dim of size {size} does not fit {dim} with {sizes}")
    return True


def _missing(dim: Dim, size: int, sizes: Mapping[str, int]) -> int:
    """The size of the one unknown letter of a dim."""
    if isinstance(dim, Letter):
        return size
    assert isinstance(dim, Compound), "numbers hold no letter"
    known = [part for part in dim.parts if all(name in sizes for name in letters(part))]
    part = next(part for part in dim.parts if part not in known)
    others = [size_of(other, sizes) for other in known]
    return _missing(part, size // prod(others) if dim.sign == "*" else size - sum(others), sizes)


def size_of(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The size of a dim, given the sizes of its letters."""
    if isinstance(dim, Letter):
        return sizes[dim.name]
    if isinstance(dim, Number):
        return dim.size
    assert isinstance(dim, Compound), "dots have no single size"
    parts = [size_of(part, sizes) for part in dim.parts]
    return prod(parts) if dim.sign == "*" else sum(parts)


def build(dim: Dim, letters_to: dict[str, Expr], sizes: Mapping[str, int]) -> Expr:
    """Write a dim over the axes of the call; a letter not seen before gets a fresh axis."""
    if isinstance(dim, Letter):
        if dim.name not in letters_to:
            letters_to[dim.name] = axis(sizes[dim.name])
        return letters_to[dim.name]
    if isinstance(dim, Number):
        return axis(dim.size, f"a factor of {dim.size} that the operator fixes", structural=True)
    assert isinstance(dim, Compound), "dots are expanded by the caller"
    parts = [build(part, letters_to, sizes) for part in dim.parts]
    return product(*parts) if dim.sign == "*" else total(*parts)
