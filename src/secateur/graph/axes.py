"""The algebra of axes: which positions of which dims belong together.

An *axis* is a set of n interchangeable positions. A *dim* of a tensor is an expression over axes:

    e ::= axis | product (e1 e2 ...)   row-major, the last factor runs fastest
               | sum (e1 + e2 + ...)   concatenation

Equating two dims is unification with refinement: a plain axis is bound to the other side; two products are
aligned from the inside by size, two sums from the left; an axis that is too coarse is refined into a product
or a sum, for everyone who holds it. What cannot be aligned is protected on both sides, with the reason.

The algorithm is union-find with path compression (Tarjan 1975) over structured terms, as in first-order
unification (Robinson 1965, with his occurs check). m unifications of plain axes cost O(m log m); a sum of k
terms costs O(k) each time it meets something.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]


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
        >>> split_heads = product(Axis(3), Axis(4))
        >>> equate(heads_and_width, split_heads, why="view")
        True
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


def _parts(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Product):
        return expr.factors
    return expr.terms if isinstance(expr, Sum) else (expr,)


def _axes_in(expr: Expr) -> Iterator[Axis]:
    """The axes as written in an expression, bound or not."""
    stack = [expr]
    while stack:
        top = stack.pop()
        if isinstance(top, Axis):
            yield top
        else:
            stack.extend(reversed(_parts(top)))


def leaves(expr: Expr) -> list[Axis]:
    """List the unbound axes of an expression from the left, one entry an occurrence."""
    return list(_axes_in(resolve(expr)))


def resolve(expr: Expr) -> Expr:
    """Rewrite an expression in terms of unbound axes, flattened.

    Chains of bindings of any length are followed without recursion and compressed; recursion happens only
    where sums and products alternate, at most twice the logarithm of the size deep.
    """
    if isinstance(expr, Axis):
        found = expr._found
        if found is None:
            return expr
        if isinstance(found, Axis) and found._found is None:
            return found
        expr._found = _expand(found)
        return expr._found
    return expr if all(held._found is None for held in _axes_in(expr)) else _expand(expr)


def _expand(expr: Expr) -> Expr:
    expr = _follow(expr)
    if isinstance(expr, Axis):
        return expr
    kind = type(expr)
    flat: list[Expr] = []
    stack: list[Expr] = [expr]
    while stack:
        top = _follow(stack.pop())
        if type(top) is kind:
            stack.extend(reversed(_parts(top)))
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


def _bind(held: Axis, expr: Expr, why: object) -> None:
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


def split(expr: Expr, left_size: int, why: object = None) -> tuple[Expr, Expr]:
    """Cut an expression after `left_size` positions.

    An axis is refined into a sum, a sum is cut between or inside its terms, a product only where the cut
    falls between whole blocks of its inner factors.

    Raises:
        MisalignedError: The cut falls inside a block of a product.

    Example:
        >>> split(product(Axis(4), Axis(3)), 6)
        ((2 3), (2 3))
    """
    expr = resolve(expr)
    if left_size == 0:
        return EMPTY, expr
    if left_size == expr.size:
        return expr, EMPTY
    if isinstance(expr, Axis):
        left, right = axis(left_size), axis(expr.size - left_size)
        _bind(expr, total(left, right), why)
        return left, right
    if isinstance(expr, Sum):
        done = 0
        for index, term in enumerate(expr.terms):
            if done + term.size > left_size:
                left, right = split(term, left_size - done, why)
                return total(*expr.terms[:index], left), total(right, *expr.terms[index + 1 :])
            done += term.size
    assert isinstance(expr, Product), "an axis and a sum have returned"
    inner = product(*expr.factors[1:])
    if left_size % inner.size:
        raise MisalignedError(f"{expr!r} cannot be cut after {left_size} positions")
    left, right = split(expr.factors[0], left_size // inner.size, why)
    return product(left, inner), product(right, inner)


def factor(expr: Expr, inner_size: int, why: object = None) -> tuple[Expr, Expr]:
    """Write an expression as outer times inner, the inner of the given size.

    An axis is refined into a product, a product is peeled from the inside; of a sum every run of terms must
    hold whole inner blocks, and the inner parts are then equal.

    Raises:
        MisalignedError: The sizes do not divide.

    Example:
        >>> factor(total(Axis(6), Axis(9)), 3)
        ((2 + 3), 3)
    """
    expr = resolve(expr)
    if inner_size == 1:
        return expr, ONE
    if inner_size == expr.size:
        return ONE, expr
    if expr.size % inner_size:
        raise MisalignedError(f"{expr.size} is no multiple of {inner_size}")
    if isinstance(expr, Axis):
        outer, inner = axis(expr.size // inner_size), axis(inner_size)
        _bind(expr, product(outer, inner), why)
        return outer, inner
    if isinstance(expr, Sum):
        return _factor_sum(expr, inner_size, why)
    last, rest = expr.factors[-1], product(*expr.factors[:-1])
    if last.size % inner_size == 0:
        outer, inner = factor(last, inner_size, why)
        return product(rest, outer), inner
    if inner_size % last.size == 0:
        outer, inner = factor(rest, inner_size // last.size, why)
        return outer, product(inner, last)
    raise MisalignedError(f"{expr!r} has no inner part of size {inner_size}")


def _factor_sum(expr: Sum, inner_size: int, why: object) -> tuple[Expr, Expr]:
    outers: list[Expr] = []
    inners: list[Expr] = []
    run: list[Expr] = []
    for term in expr.terms:
        run.append(term)
        size = sum(part.size for part in run)
        if size % inner_size:
            continue
        if len(run) > 1 and size != inner_size:
            raise MisalignedError(f"{expr!r} has no whole blocks of size {inner_size}")
        outer, inner = factor(total(*run), inner_size, why)
        outers.append(outer)
        inners.append(inner)
        run = []
    for inner in inners[1:]:
        equate(inners[0], inner, why)
    return total(*outers), inners[0]


def equate(left: Expr, right: Expr, why: object = None) -> bool:
    """Declare that two dims hold the same positions in the same order.

    Args:
        left: One dim.
        right: The other, of the same size.
        why: What demands it; kept for `explain`.

    Returns:
        False if the two could not be aligned; then both sides are protected, with a reason.

    Example:
        >>> a, b = Axis(6), product(Axis(2), Axis(3))
        >>> equate(a, b), equate(b, total(Axis(3), Axis(3)))
        (True, True)
        >>> resolve(a)
        ((1 + 1) 3)
    """
    if left.size != right.size:
        raise ValueError(f"dims of {left.size} and {right.size} positions cannot be equal")
    if left is right:
        return True
    pending = [(left, right)]
    aligned = True
    while pending:
        one, two = (resolve(side) for side in pending.pop())
        if one is two:
            continue
        try:
            pending.extend(_align(one, two, why))
        except MisalignedError as error:
            aligned = False
            reason = f"{one!r} and {two!r} cannot be aligned ({error}), demanded by {why}"
            protect(one, reason)
            protect(two, reason)
    return aligned


def _align(one: Expr, two: Expr, why: object) -> list[tuple[Expr, Expr]]:
    """One step of unification: bind, or name the smaller pairs that must be equal."""
    if not isinstance(one, Axis) or (isinstance(two, Axis) and one.nested and not two.nested):
        one, two = two, one
    if isinstance(one, Axis):
        if one.nested and not isinstance(two, Axis) and any(held is one for held in _axes_in(two)):
            raise MisalignedError("the axis would hold itself")
        _bind(one, two, why)
        return []
    if isinstance(one, Sum) or isinstance(two, Sum):
        return _align_sums(_terms(one), _terms(two), why)
    assert isinstance(one, Product), "axes and sums are handled"
    assert isinstance(two, Product), "axes and sums are handled"
    inner_size = min(one.factors[-1].size, two.factors[-1].size)
    one_outer, one_inner = factor(one, inner_size, why)
    two_outer, two_inner = factor(two, inner_size, why)
    return [(one_outer, two_outer), (one_inner, two_inner)]


def _terms(expr: Expr) -> list[Expr]:
    return list(reversed(expr.terms)) if isinstance(expr, Sum) else [expr]


def _align_sums(ones: list[Expr], twos: list[Expr], why: object) -> list[tuple[Expr, Expr]]:
    """Merge the boundaries of two sums; the lists are consumed from their ends."""
    pairs: list[tuple[Expr, Expr]] = []
    while ones and twos:
        one, two = ones.pop(), twos.pop()
        if one.size > two.size:
            one, rest = split(one, two.size, why)
            ones.append(rest)
        elif two.size > one.size:
            two, rest = split(two, one.size, why)
            twos.append(rest)
        pairs.append((one, two))
    return pairs


def count(expr: Expr, kept: Mapping[Axis, int]) -> int:
    """Count the positions that stay, given how many of each axis do; axes not named stay whole.

    Example:
        >>> heads, width = Axis(8), Axis(64)
        >>> count(product(heads, width), {heads: 6})
        384
    """
    return _count(resolve(expr), kept)


def _count(expr: Expr, kept: Mapping[Axis, int]) -> int:
    if isinstance(expr, Axis):
        return kept.get(expr, expr.size)
    parts = (_count(part, kept) for part in _parts(expr))
    return prod(parts) if isinstance(expr, Product) else sum(parts)


def keep_mask(expr: Expr, keep: Mapping[Axis, Mask]) -> Mask:
    """Tell for every position of a dim whether it stays.

    Masks of a product's factors are multiplied (outer product, row-major), masks of a sum's terms joined.

    Args:
        expr: The dim.
        keep: A mask per axis; axes not named stay whole.

    Example:
        >>> a = Axis(2)
        >>> keep_mask(product(a, Axis(2)), {a: np.array([False, True])}).tolist()
        [False, False, True, True]
    """
    return _keep_mask(resolve(expr), keep)


def _keep_mask(expr: Expr, keep: Mapping[Axis, Mask]) -> Mask:
    if isinstance(expr, Axis):
        return keep[expr] if expr in keep else np.ones(expr.size, dtype=bool)
    masks = [_keep_mask(part, keep) for part in _parts(expr)]
    if isinstance(expr, Sum):
        return np.concatenate(masks) if masks else np.ones(0, dtype=bool)
    result = np.ones(1, dtype=bool)
    for mask in masks:
        result = np.logical_and.outer(result, mask).reshape(-1)
    return result


def explain(held: Axis, leaf: Axis) -> list[object]:
    """List what coupled an axis with one of the leaves it resolves to, nearest first.

    Example:
        >>> a, b, c = Axis(4), Axis(4), Axis(4)
        >>> _ = equate(a, b, why="bn1"), equate(a, c, why="relu")
        >>> explain(a, resolve(c))
        ['bn1', 'relu']
    """
    steps: list[object] = []
    while held is not leaf and held.target is not None:
        steps.append(held.why)
        inside = [part for part in _axes_in(held.target) if leaf in leaves(part)]
        if not inside:
            break
        held = inside[0]
    return steps


def positions(expr: Expr, leaf: Axis) -> NDArray[np.int64]:
    """List where in a dim each position of one axis lies.

    Returns:
        One row for each position of the axis: the positions of the dim that go with it. Only where an axis is
        multiplied by itself do rows overlap.

    Example:
        >>> heads, width = Axis(2), Axis(3)
        >>> positions(product(heads, width), width).tolist()
        [[0, 3], [1, 4], [2, 5]]
    """
    expr = resolve(expr)
    if _is_multiplied(expr, leaf):
        each = (np.arange(leaf.size) != at for at in range(leaf.size))
        return np.stack([np.flatnonzero(~_keep_mask(expr, {leaf: mask})) for mask in each])
    labels = _labels(expr, leaf)
    order = np.argsort(labels, kind="stable")
    return order[np.count_nonzero(labels < 0) :].reshape(leaf.size, -1)


def _is_multiplied(expr: Expr, leaf: Axis) -> bool:
    """Whether some product holds an axis in more than one factor, as the flattened x x^T does."""
    if isinstance(expr, Axis):
        return False
    parts = _parts(expr)
    holding = [part for part in parts if any(held is leaf for held in _axes_in(part))]
    return (isinstance(expr, Product) and len(holding) > 1) or any(
        _is_multiplied(part, leaf) for part in holding
    )


def _labels(expr: Expr, leaf: Axis) -> NDArray[np.int64]:
    """Which position of the axis each position of a dim belongs to; -1 for none."""
    if isinstance(expr, Axis):
        return np.arange(expr.size) if expr is leaf else np.full(expr.size, -1)
    parts = [_labels(part, leaf) for part in _parts(expr)]
    if isinstance(expr, Sum):
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    result = np.full(1, -1)
    for part in parts:
        result = np.maximum.outer(result, part).reshape(-1)
    return result
