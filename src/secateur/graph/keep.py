"""What stays of a dim when positions of its axes go: counts, masks, and where an axis lies in a dim."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.graph.axes import Axis, Expr, Product, Sum, axes_in, parts_of, resolve

Mask: TypeAlias = NDArray[np.bool_]


def count(expr: Expr, kept: Mapping[Axis, int]) -> int:
    """Count the positions that stay, given how many of each axis do; axes not named stay whole.

    Example:
        >>> from secateur.graph.axes import product
        >>> heads, width = Axis(8), Axis(64)
        >>> count(product(heads, width), {heads: 6})
        384
    """
    return _count(resolve(expr), kept)


def _count(expr: Expr, kept: Mapping[Axis, int]) -> int:
    if isinstance(expr, Axis):
        return kept.get(expr, expr.size)
    parts = (_count(part, kept) for part in parts_of(expr))
    return prod(parts) if isinstance(expr, Product) else sum(parts)


def size_of(dims: Iterable[Expr], kept: Mapping[Axis, int]) -> int:
    """Count the entries of a tensor that stay, or the steps of a loop over dims.

    Example:
        >>> rows, columns = Axis(8), Axis(4)
        >>> size_of([rows, columns], {rows: 6})
        24
    """
    return prod(count(dim, kept) for dim in dims)


def keep_mask(expr: Expr, keep: Mapping[Axis, Mask]) -> Mask:
    """Tell for every position of a dim whether it stays.

    Masks of a product's factors are multiplied (outer product, row-major), masks of a sum's terms joined.

    Args:
        expr: The dim.
        keep: A mask per axis; axes not named stay whole.

    Example:
        >>> from secateur.graph.axes import product
        >>> a = Axis(2)
        >>> keep_mask(product(a, Axis(2)), {a: np.array([False, True])}).tolist()
        [False, False, True, True]
    """
    return _keep_mask(resolve(expr), keep)


def _keep_mask(expr: Expr, keep: Mapping[Axis, Mask]) -> Mask:
    if isinstance(expr, Axis):
        return keep[expr] if expr in keep else np.ones(expr.size, dtype=bool)
    masks = [_keep_mask(part, keep) for part in parts_of(expr)]
    if isinstance(expr, Sum):
        return np.concatenate(masks) if masks else np.ones(0, dtype=bool)
    result = np.ones(1, dtype=bool)
    for mask in masks:
        result = np.logical_and.outer(result, mask).reshape(-1)
    return result


class DimPlaces:
    """Where the axes of one dim lie in it; found out once for all of them.

    Args:
        expr: The dim. Its axes may not be bound any more.
    """

    def __init__(self, expr: Expr) -> None:
        resolved = resolve(expr)
        self._terms: dict[Axis, list[tuple[int, Expr]]] = {}
        start = 0
        for term in resolved.terms if isinstance(resolved, Sum) else (resolved,):
            for leaf in dict.fromkeys(axes_in(term)):
                self._terms.setdefault(leaf, []).append((start, term))
            start += term.size
        self.axis = resolved if isinstance(resolved, Axis) else None

    def of(self, leaf: Axis) -> NDArray[np.int64]:
        """List where each position of one axis lies; see `positions`."""
        none = np.zeros((leaf.size, 0), dtype=np.int64)
        found = (start + _positions(term, leaf) for start, term in self._terms.get(leaf, ()))
        return np.concatenate([none, *found], axis=1)


def positions(expr: Expr, leaf: Axis) -> NDArray[np.int64]:
    """List where in a dim each position of one axis lies.

    Returns:
        One row for each position of the axis: the positions of the dim that go with it. Only where an axis is
        multiplied by itself do rows overlap.

    Example:
        >>> from secateur.graph.axes import product
        >>> heads, width = Axis(2), Axis(3)
        >>> positions(product(heads, width), width).tolist()
        [[0, 3], [1, 4], [2, 5]]
    """
    return DimPlaces(expr).of(leaf)


def _positions(expr: Expr, leaf: Axis) -> NDArray[np.int64]:
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
    parts = parts_of(expr)
    holding = [part for part in parts if any(held is leaf for held in axes_in(part))]
    return (isinstance(expr, Product) and len(holding) > 1) or any(
        _is_multiplied(part, leaf) for part in holding
    )


def _labels(expr: Expr, leaf: Axis) -> NDArray[np.int64]:
    """Which position of the axis each position of a dim belongs to; -1 for none."""
    if isinstance(expr, Axis):
        return np.arange(expr.size) if expr is leaf else np.full(expr.size, -1)
    parts = [_labels(part, leaf) for part in parts_of(expr)]
    if isinstance(expr, Sum):
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    result = np.full(1, -1)
    for part in parts:
        result = np.maximum.outer(result, part).reshape(-1)
    return result


class Kept:
    """What stays of every axis, and so of every dim.

    Args:
        masks: A mask for each axis that was chosen from; axes not named stay whole.

    Example:
        >>> from secateur.graph.axes import product
        >>> heads, width = Axis(2), Axis(2)
        >>> kept = Kept({heads: np.array([False, True])})
        >>> dim = product(heads, width)
        >>> kept.cuts(dim), kept.count(dim), kept.positions(dim).tolist(), kept.removed(dim).tolist()
        (True, 2, [2, 3], [0, 1])
        >>> kept.cuts(width)
        False
    """

    def __init__(self, masks: Mapping[Axis, Mask]) -> None:
        self.masks = dict(masks)
        self.changed = {held: int(mask.sum()) for held, mask in masks.items() if not mask.all()}
        """How many positions stay of each axis that loses some."""
        self._known: dict[int, tuple[Expr, Mask | None]] = {}

    def _mask(self, expr: Expr) -> Mask | None:
        """The mask of a dim; None for one that stays whole."""
        known = self._known.get(id(expr))
        if known is None:  # the expression is kept, too, so that its identity stays its own
            is_cut = any(leaf in self.changed for leaf in axes_in(resolve(expr)))
            known = self._known[id(expr)] = (expr, keep_mask(expr, self.masks) if is_cut else None)
        return known[1]

    def cuts(self, expr: Expr) -> bool:
        """Whether a dim loses positions."""
        return self._mask(expr) is not None

    def mask(self, expr: Expr) -> Mask:
        """Tell for every position of a dim whether it stays."""
        mask = self._mask(expr)
        return np.ones(expr.size, dtype=bool) if mask is None else mask

    def count(self, expr: Expr) -> int:
        """Count the positions of a dim that stay."""
        mask = self._mask(expr)
        return expr.size if mask is None else int(mask.sum())

    def positions(self, expr: Expr) -> NDArray[np.int64]:
        """List the positions of a dim that stay."""
        return np.flatnonzero(self.mask(expr))

    def removed(self, expr: Expr) -> NDArray[np.int64]:
        """List the positions of a dim that go."""
        return np.flatnonzero(~self.mask(expr))
