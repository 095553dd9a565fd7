"""The matrix of each head that brings the logits of a cut attention back to those of the dense one.

With q, k the queries and keys of the cut model, q', k' those of the dense one, row by row (a row is a head of
a sample), find for each head

    min over M of  sum over its rows and all i, j of  (q_i M k_j - q'_i k'_j)^2  +  ridge |M - 1|^2

Only second moments are held: A = Q'Q, B = K'K, G = Q'Q_d K_d'K and |Q_d K_d'|^2, for each row. The normal
equations, sum of A M B = sum of G, are solved by conjugate gradients, with the inverse for the means of A
and of B before them, made from two eigendecompositions: of one row that is the solution itself. Where M is
bound to few entries (rotary positions), their equations are small enough to be written out.

References:
    Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952, section 3.
"""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.recovery.channel_blocks import Mixing

_RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-11, 1e-14)
"""Of the mean of A times that of B; from the cautious to the daring, until no head gains by it."""
_TURNS = 60
_ENOUGH = 1e-14
"""Of the squares of the residual, of those there were: the solution is found."""
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class LogitSums:
    """The second moments of the rows of some heads.

    Attributes:
        query: A, [heads, rows, width, width].
        key: B.
        wanted: G.
        size: Squares of the dense logits, [heads].
    """

    query: Float[Tensor, "heads rows width width"]
    key: Float[Tensor, "heads rows width width"]
    wanted: Float[Tensor, "heads rows width width"]
    size: Float[Tensor, " heads"]

    @classmethod
    def of(cls, cut: tuple[Tensor, Tensor], dense: tuple[Tensor, Tensor]) -> "LogitSums":
        """Of queries and keys of both models, [heads, rows, positions, width] in float64."""
        (query, key), (query_d, key_d) = cut, dense
        wanted = (query.mT @ query_d) @ (key_d.mT @ key)
        size = ((query_d.mT @ query_d) * (key_d.mT @ key_d)).sum((1, 2, 3))
        return cls(query.mT @ query, key.mT @ key, wanted, size)

    def join(self, other: "LogitSums") -> "LogitSums":
        """The rows of both."""
        return LogitSums(
            torch.cat([self.query, other.query], 1),
            torch.cat([self.key, other.key], 1),
            torch.cat([self.wanted, other.wanted], 1),
            self.size + other.size,
        )

    def some(self, heads: Tensor) -> "LogitSums":
        """The sums of some heads."""
        return LogitSums(self.query[heads], self.key[heads], self.wanted[heads], self.size[heads])

    def left_by(self, matrix: Float[Tensor, "heads width width"]) -> Float[Tensor, " heads"]:
        """The squares that the logits miss with a matrix of each head."""
        made = self.query @ matrix[:, None] @ self.key
        left = (matrix[:, None] * (made - 2 * self.wanted)).sum((1, 2, 3)) + self.size
        return left.clamp(min=0)


@dataclass(frozen=True, eq=False)
class LogitFit:
    """What was found for some heads.

    Attributes:
        matrix: M of each head; one where no other is better.
        before: Squares that were missing on rows that nothing was learned from, [heads].
        after: Squares that are.
        size: Squares of the dense logits there.
    """

    matrix: Float[Tensor, "heads width width"]
    before: Float[Tensor, " heads"]
    after: Float[Tensor, " heads"]
    size: Float[Tensor, " heads"]


def fit_logits(fit: LogitSums, test: LogitSums, classes: Mixing | None) -> LogitFit:
    """Find the matrix of each head, with the ridge that leaves least on other rows.

    Args:
        fit: The rows to learn from.
        test: Other rows.
        classes: The entries that a matrix may have; None for any matrix.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> q, k, q2, k2 = torch.randn(4, 1, 2, 9, 3, dtype=torch.float64, generator=draw)
        >>> turned = torch.randn(3, 3, dtype=torch.float64, generator=draw)
        >>> one, two = LogitSums.of((q, k), (q @ turned, k)), LogitSums.of((q2, k2), (q2 @ turned, k2))
        >>> bool((fit_logits(one, two, None).matrix - turned).abs().max() < 1e-5)
        True
    """
    still = torch.eye(fit.query.shape[-1]).to(fit.query).expand(len(fit.size), -1, -1)
    before = test.left_by(still)
    after, chosen, found = before.clone(), torch.full_like(before, inf), still
    for ridge in _RIDGES:
        found = _solved(fit, ridge, classes, found)
        left = test.left_by(found)
        better = left < after
        if ridge < _RIDGES[0] and not bool(better.any()):
            break
        after, chosen = torch.where(better, left, after), torch.where(better, ridge, chosen)
    both, matrix = fit.join(test), still.clone()
    for ridge in chosen.unique().tolist():
        if ridge < inf:
            heads = chosen == ridge
            matrix[heads] = _solved(both.some(heads), ridge, classes, found[heads])
    return LogitFit(matrix, before, after, test.size)


def _solved(sums: LogitSums, ridge: float, classes: Mixing | None, start: Tensor) -> Tensor:
    """The matrices of one ridge: a share of the mean of A times that of B, for each row."""
    means = (sums.query.diagonal(dim1=2, dim2=3).mean(2) * sums.key.diagonal(dim1=2, dim2=3).mean(2)).sum(1)
    added = ridge * torch.where(means > 0, means, torch.ones_like(means))
    return _free(sums, added, start) if classes is None else _bound(sums, added, classes)


def _free(sums: LogitSums, added: Tensor, start: Tensor) -> Tensor:
    """Any matrix, by conjugate gradients."""
    width, rows = sums.query.shape[-1], sums.query.shape[1]
    still = torch.eye(width).to(sums.query)
    (own, left), (other, right) = (torch.linalg.eigh(one.mean(1)) for one in (sums.query, sums.key))
    scale = rows * own.clamp(min=0)[:, :, None] * other.clamp(min=0)[:, None, :] + added[:, None, None]

    def applied(matrix: Tensor) -> Tensor:
        made = (sums.query @ matrix[:, None] @ sums.key).sum(1)
        return made + added[:, None, None] * matrix

    def nearly_undone(matrix: Tensor) -> Tensor:
        return left @ ((left.mT @ matrix @ right) / scale) @ right.mT

    def product(one: Tensor, two: Tensor) -> Tensor:
        return (one * two).sum((1, 2), keepdim=True)

    found = start.clone()
    target = sums.wanted.sum(1) + added[:, None, None] * still
    residual = target - applied(found)
    towards = step = nearly_undone(residual)
    size = product(target, nearly_undone(target))
    error = product(residual, towards)
    for _ in range(_TURNS):
        if bool((error <= _ENOUGH * size).all()):
            break
        moved = applied(step)
        share = error / product(step, moved).clamp_min(_TINY)
        found = found + share * step
        residual = residual - share * moved
        towards = nearly_undone(residual)
        error, before = product(residual, towards), error
        step = towards + error / before.clamp_min(_TINY) * step
    return found


def _bound(sums: LogitSums, added: Tensor, classes: Mixing) -> Tensor:
    """A matrix of few entries: their equations, written out."""
    count = len(classes.rows)
    gram = sums.query.new_zeros(len(sums.size), count, count)
    wanted = sums.query.new_zeros(len(sums.size), count)
    total = sums.wanted.sum(1)
    # The matrix that a weight is multiplied with is M turned round.
    rows, columns, signs = classes.columns, classes.rows, classes.signs.to(sums.query)
    for one in range(2):
        wanted += signs[:, one] * total[:, rows[:, one], columns[:, one]]
        for two in range(2):
            weight = signs[:, one, None] * signs[None, :, two]
            if not bool(weight.any()):
                continue
            across = sums.query[:, :, rows[:, one, None], rows[None, :, two]]
            along = sums.key[:, :, columns[:, one, None], columns[None, :, two]]
            gram += weight * (across * along).sum(1)
    own = signs.square().sum(1)
    still = (signs * (rows == columns)).sum(1) / own
    gram.diagonal(dim1=1, dim2=2).add_(added[:, None] * own)
    found = torch.linalg.solve(gram, wanted + added[:, None] * own * still)
    return classes.matrix(found).mT
