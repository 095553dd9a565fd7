"""The algebra of axes: which positions of which dims belong together.

An *axis* is a set of n interchangeable positions. A *dim* of a tensor (parameter, buffer, activation) is an
expression over axes:

    e ::= axis | product (e1 e2 ...)   row-major, the last factor runs fastest
               | sum (e1 + e2 + ...)   concatenation

Axes are nodes of a union-find forest (Tarjan 1975) over structured terms, as in first-order unification
(Robinson 1965, with his occurs check): an axis is bound to another axis, or refined into a product or a sum,
for everyone who holds it. m unifications of plain axes cost O(m log m); a sum of k terms costs O(k) each time
it meets something. `unify` equates expressions, `keep` tells what stays of them.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import TypeAlias


class MisalignedError(Exception):
    """Two expressions have no common refinement; the caller protects both sides."""


class Axis:
    """A set of `size` interchangeable positions; a node of the union-find forest.

    Attributes:
        size: Number of positions.
        reason: Why no position may be removed; None while the axis is free. Valid on unbound axes.
        renormalised: Why removing a position changes a statistic; None if it does not. Valid on unbound axes.
        structural: True for dims that are no channels: kernel, spatial and batch dims.
        target: What the axis was bound to, uncompressed, for `explain`; None while unbound.
        why: What bound it (a node's index, or a text).

    Example:
        >>> heads_and_width = Axis(12)
        >>> bind(heads_and_width, product(Axis(3), Axis(4)), why="view")
        >>> resolve(heads_and_width)
        (3 4)
    """

    __slots__ = ("_found", "nested", "reason", "renormalised", "size", "structural", "target", "why")

    def __init__(self, size: int, reason: str | None = None, *, structural: bool = False) -> None:
        self.size = size
        self.reason = reason
        self.renormalised: str | None = None
        self.structural = structural
        self.nested = False
        self.target: Expr | None = None
        self.why: object = None
        self._found: Expr | None = None

    def __repr__(self) -> str:
        return str(self.size)


class Product:
    """A row-major product of expressions: heads times width. Build it with `product`."""

    __slots__ = ("factors", "size")

    def __init__(self, factors: "tuple[Expr, ...]") -> None:
        self.factors = factors
        self.size: int = prod(factor.size for factor in factors)

    def __repr__(self) -> str:
        return f"({' '.join(map(repr, self.factors))})" if self.factors else "1"


class Sum:
    """A concatenation of expressions. Build it with `total`."""

    __slots__ = ("size", "terms")

    def __init__(self, terms: "tuple[Expr, ...]") -> None:
        self.terms = terms
        self.size: int = sum(term.size for term in terms)

    def __repr__(self) -> str:
        return f"({' + '.join(map(repr, self.terms))})" if self.terms else "0"


Expr: TypeAlias = Axis | Product | Sum

ONE = Product(())
"""The dim of one position: nothing to choose."""

EMPTY = Sum(())
"""The dim of no position."""


def axis(size: int, reason: str | None = None, *, structural: bool = False) -> Expr:
    """Make a fresh axis; a size of one or zero has no axis, only `ONE` or `EMPTY`."""
    if size == 1:
        return ONE
    return Axis(size, reason, structural=structural) if size else EMPTY


def product(*factors: Expr) -> Expr:
    """Multiply expressions, flattened, without factors of size one.

    Example:
        >>> product(Axis(2), product(Axis(3), ONE), Axis(4))
        (2 3 4)
    """
    flat: list[Expr] = []
    for factor in factors:
        if factor.size != 1:
            flat.extend(factor.factors if isinstance(factor, Product) else (factor,))
    if len(flat) == 1:
        return flat[0]
    if any(factor.size == 0 for factor in flat):
        return EMPTY
    _mark_nested(flat)
    return Product(tuple(flat)) if flat else ONE


def total(*terms: Expr) -> Expr:
    """Concatenate expressions, flattened, without terms of size zero.

    Example:
        >>> total(Axis(2), total(Axis(3), EMPTY), Axis(4))
        (2 + 3 + 4)
    """
    flat: list[Expr] = []
    for term in terms:
        if term.size:
            flat.extend(term.terms if isinstance(term, Sum) else (term,))
    if len(flat) == 1:
        return flat[0]
    _mark_nested(flat)
    return Sum(tuple(flat)) if flat else EMPTY


def _mark_nested(parts: Sequence[Expr]) -> None:
    for part in parts:
        if isinstance(part, Axis):
            part.nested = True


def parts_of(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product, the terms of a sum, or the axis itself."""
    if isinstance(expr, Product):
        return expr.factors
    return expr.terms if isinstance(expr, Sum) else (expr,)


def axes_in(expr: Expr) -> Iterator[Axis]:
    """The axes as written in an expression, bound or not."""
    stack = [expr]
    while stack:
        top = stack.pop()
        if isinstance(top, Axis):
            yield top
        else:
            stack.extend(reversed(parts_of(top)))


def leaves(expr: Expr) -> list[Axis]:
    """List the unbound axes of an expression from the left, one entry an occurrence."""
    found = resolve(expr)
    return [found] if isinstance(found, Axis) else list(axes_in(found))


def resolve(expr: Expr) -> Expr:
    """Rewrite an expression in terms of unbound axes, flattened.

    Chains of bindings of any length are followed without recursion and compressed; recursion happens only
    where sums and products alternate, at most twice the logarithm of the size deep.
    """
    if isinstance(expr, Axis):
        found = expr._found
        if found is None:
            return expr
        if isinstance(found, Axis):
            behind = found._found
            if behind is None:
                return found
            if isinstance(behind, Axis) and behind._found is None:
                expr._found = behind
                return behind
        expr._found = _expand(found)
        return expr._found
    return expr if all(held._found is None for held in axes_in(expr)) else _expand(expr)


def _expand(expr: Expr) -> Expr:
    expr = _follow(expr)
    if isinstance(expr, Axis) or all(
        isinstance(part, Axis) and part._found is None for part in parts_of(expr)
    ):
        return expr
    kind = type(expr)
    flat: list[Expr] = []
    stack: list[Expr] = [expr]
    while stack:
        top = _follow(stack.pop())
        if type(top) is kind:
            stack.extend(reversed(parts_of(top)))
        else:
            flat.append(top if isinstance(top, Axis) else _expand(top))
    return product(*flat) if kind is Product else total(*flat)


def _follow(expr: Expr) -> Expr:
    """The first unbound axis or composite behind a chain of bindings; compresses the chain."""
    chain: list[Axis] = []
    while isinstance(expr, Axis) and expr._found is not None:
        chain.append(expr)
        expr = expr._found
    for passed in chain:
        passed._found = expr
    return expr


def bind(held: Axis, expr: Expr, why: object) -> None:
    """Let an unbound axis stand for an expression of its size; protection and marks go over to its leaves.

    Args:
        held: The axis; it may not occur in the expression.
        expr: What it stands for from now on.
        why: What demands it; kept for `explain`.
    """
    held.target = held._found = expr
    held.why = why
    if held.nested and isinstance(expr, Axis):
        expr.nested = True
    if held.reason is not None:
        protect(expr, held.reason, structural=held.structural)
    if held.renormalised is not None:
        renormalise(expr, held.renormalised)


def protect(expr: Expr, reason: str, *, structural: bool = False) -> None:
    """Forbid to remove any position of an expression; the first reason given stays."""
    for leaf in leaves(expr):
        if leaf.reason is None:
            leaf.reason = reason
            leaf.structural = structural
        elif not structural:
            if leaf.structural:
                leaf.reason = reason
            leaf.structural = False


def renormalise(expr: Expr, reason: str) -> None:
    """Mark that removing a position changes a statistic taken over the expression."""
    for leaf in leaves(expr):
        leaf.renormalised = leaf.renormalised or reason


def explain(held: Axis, leaf: Axis) -> list[object]:
    """List what coupled an axis with one of the leaves it resolves to, nearest first.

    Example:
        >>> a, b, c = Axis(4), Axis(4), Axis(4)
        >>> bind(a, b, why="bn1"), bind(b, c, why="relu")
        (None, None)
        >>> explain(a, resolve(c))
        ['bn1', 'relu']
    """
    steps: list[object] = []
    while held is not leaf and held.target is not None:
        steps.append(held.why)
        inside = [part for part in axes_in(held.target) if leaf in leaves(part)]
        if not inside:
            break
        held = inside[0]
    return steps
