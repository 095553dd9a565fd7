"""Unification: two dims are declared equal, and axes are refined until they are.

`split` and `factor` cut an expression apart, `equate` aligns two: products from the inside by size, sums from
the left. What has no common refinement is protected on both sides, with the reason.
"""

from secateur.graph.axes import (
    EMPTY,
    ONE,
    Axis,
    Expr,
    MisalignedError,
    Product,
    Sum,
    axes_in,
    axis,
    bind,
    product,
    protect,
    resolve,
    total,
)


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
        bind(expr, total(left, right), why)
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
        bind(expr, product(outer, inner), why)
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
        left, right = pending.pop()
        one, two = resolve(left), resolve(right)
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
        if one.nested and not isinstance(two, Axis) and any(held is one for held in axes_in(two)):
            raise MisalignedError("the axis would hold itself")
        bind(one, two, why)
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
