"""Blocks: the channels of a layer head by head, in the model as it was and in the cut one."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.graph.axes import Axis, Expr, Product, Sum, leaves, parts_of, resolve
from secateur.graph.keep import DimPlaces, Kept

_MOST_MIXED = 1024
"""Unknowns of a head whose coordinates are not all free: where there are more, none is mixed with others."""


@dataclass(frozen=True, eq=False)
class ChannelBlocks:
    """Where the blocks of a dim lie, those that stay.

    Attributes:
        dense: Positions in the dim as it was, [blocks, width before the cut].
        cut: Positions in the cut dim, [blocks, width].
        kept: Which positions of a block stay.
        inner: What a block is made of.
    """

    dense: Tensor
    cut: Tensor
    kept: Tensor
    inner: Expr

    def __len__(self) -> int:
        """How many blocks stay."""
        return len(self.cut)

    @property
    def width(self) -> int:
        """Positions of a block of the cut dim."""
        return self.cut.shape[1]

    @cached_property
    def pairs(self) -> Tensor:
        """Kept positions that go together two by two, [pairs, 2]; none where more than two do."""
        return self._together(2)

    @cached_property
    def singles(self) -> Tensor:
        """Kept positions that go by themselves."""
        return self._together(1)[:, 0]

    def _together(self, count: int) -> Tensor:
        number = self.kept.cumsum(0) - 1
        places = DimPlaces(self.inner)
        found = [torch.empty(0, count, dtype=torch.long)]
        for leaf in dict.fromkeys(leaves(self.inner)):
            at = torch.from_numpy(places.of(leaf))
            if at.shape[1] == count:
                found.append(number[at[self.kept[at].all(1)]])
        return torch.cat(found)


def blocks_of(dim: Expr, inner: Expr, kept: Kept) -> ChannelBlocks | None:
    """The blocks of a dim: all that it holds of another expression, one after the other.

    Args:
        dim: The channels of a layer, heads times width; a sum of such where they lie one behind the other.
        inner: The width of a head.
        kept: What stays.

    Returns:
        The blocks; None if there are none, or some lose other positions than others.

    Example:
        >>> import numpy as np
        >>> from secateur.graph.axes import product
        >>> heads, width = Axis(2), Axis(3)
        >>> found = blocks_of(product(heads, width), width, Kept({width: np.array([True, False, True])}))
        >>> found.dense.tolist(), found.cut.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[0, 1], [2, 3]])
    """
    dim, inner = resolve(dim), resolve(inner)
    starts: list[int] = []
    begin = 0
    for term in parts_of(dim) if isinstance(dim, Sum) and not _is_same(dim, inner) else (dim,):
        if _ends_with(term, inner):
            starts.extend(range(begin, begin + term.size, inner.size))
        begin += term.size
    within, mask = (torch.from_numpy(kept.mask(one)) for one in (inner, dim))
    dense = torch.tensor(starts, dtype=torch.long)[:, None] + torch.arange(inner.size)
    dense = dense[mask[dense].any(1)] if len(starts) else dense
    if not len(dense) or not within.any() or not bool((mask[dense] == within).all()):
        return None
    return ChannelBlocks(dense, (mask.cumsum(0) - 1)[dense[:, within]], within, inner)


def _ends_with(dim: Expr, inner: Expr) -> bool:
    factors, wanted = _factors(dim), _factors(inner)
    last = factors[len(factors) - len(wanted) :]
    return len(last) == len(wanted) and all(map(_is_same, last, wanted))


def _factors(expr: Expr) -> tuple[Expr, ...]:
    return expr.factors if isinstance(expr, Product) else (expr,)


def _is_same(one: Expr, other: Expr) -> bool:
    if isinstance(one, Axis) or isinstance(other, Axis) or type(one) is not type(other):
        return one is other
    parts, others = parts_of(one), parts_of(other)
    return len(parts) == len(others) and all(map(_is_same, parts, others))


@dataclass(frozen=True, eq=False)
class Mixing:
    """Which matrices may be applied to a block: the sums of some that have one entry, or two.

    Attributes:
        rows: Row of each entry, [unknowns, 2].
        columns: Its column.
        signs: What it is times the unknown; 0 for an entry that there is not.
        width: Of a block.
    """

    rows: Tensor
    columns: Tensor
    signs: Tensor
    width: int

    def matrix(self, unknowns: Tensor) -> Tensor:
        """The matrices of some unknowns: [..., unknowns] to [..., width, width]."""
        made = unknowns.new_zeros(*unknowns.shape[:-1], self.width * self.width)
        at = self.rows * self.width + self.columns
        for entry in range(2):
            made.index_add_(-1, at[:, entry], unknowns * self.signs[:, entry].to(unknowns))
        return made.unflatten(-1, (self.width, self.width))


def turning(blocks: ChannelBlocks) -> Mixing | None:
    """What commutes with any turn of pairs: of each pair a times one plus b times a quarter turn.

    Single positions mix freely.

    Returns:
        None where there are no pairs, or more than two positions go together.

    Example:
        >>> import numpy as np
        >>> from secateur.graph.axes import total
        >>> pair = Axis(2)
        >>> both, kept = total(pair, pair), Kept({pair: np.array([True, False])})
        >>> found = turning(blocks_of(both, both, kept))
        >>> found.matrix(torch.tensor([2.0, 0.5])).tolist()
        [[2.0, -0.5], [0.5, 2.0]]
    """
    pairs, singles = blocks.pairs, blocks.singles
    if not len(pairs) or 2 * len(pairs) + len(singles) != blocks.width:
        return None
    first, second = pairs.unbind(1)
    one = two = singles
    if len(singles) ** 2 + 2 * len(pairs) <= _MOST_MIXED:
        one, two = (found.flatten() for found in torch.meshgrid(singles, singles, indexing="ij"))
    parts = [
        ((first, first), (second, second), (1.0, 1.0)),
        ((first, second), (second, first), (-1.0, 1.0)),
        ((one, two), (one, two), (1.0, 0.0)),
    ]
    rows, columns = (torch.cat([torch.stack([a[at], b[at]], 1) for a, b, _ in parts]) for at in (0, 1))
    signs = torch.cat([torch.tensor(sign).expand(len(a[0]), 2) for a, _, sign in parts])
    return Mixing(rows, columns, signs, blocks.width)
