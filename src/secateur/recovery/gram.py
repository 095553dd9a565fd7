"""Ridge least squares from sums alone.

Rows x (what a layer reads at one position) and r (what is missing in its output there) are only met in sums:

    X'X, X'r, sums of x and r, |r|^2        all in float64

and the change D of the weight and the constant c that make up for r best are

    D = (C + ridge * S)^-1 (X'r - n mx mr'),   C = X'X - n mx mx',   c = mr - D'mx,   S_ii = max(C_ii, floor)

with the means mx, mr; without a place for a constant nothing is centred. The ridge pulls towards D = 0, the
weight as it is, so positions that tell nothing change nothing; as a share of each input's own variance it
is C shrunk towards its diagonal, which one loud input does not drown. The floor is a tenth of the middle
variance: a channel that hardly ever is on would get a weight as large as it is rare, and blow up where it is
on as others are (outputs of a VGG-16 with random weights were 5e4 times too large, docs/LOG.md). Sums also
tell what a change leaves of |r|^2 on rows that it was not made from. By that the ridge is chosen, from some
of the outputs; where no change leaves less than there was, nothing is changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.coupling.products import add_products, mirror

if TYPE_CHECKING:
    from secateur.recovery.held_rows import HeldRows

RIDGES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
"""Of each input's variance, or of the floor; from the cautious to the daring."""

_FIRST = RIDGES.index(1e-2)
"""The search starts there and goes on while less is left."""

_FINE = 1e-4
"""Smaller ridges are beyond float32."""

_SOME = 64
"""Outputs by which the ridge is chosen."""

_QUIET = 0.1
"""Of the middle variance of the inputs; the ridge takes inputs that vary less as varying so much."""

_UNTESTED = 1e-2
"""The ridge if there are no rows to choose it by."""


_System: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Change:
    """What makes up for what is missing.

    Attributes:
        weight: [groups, features, outputs].
        constant: [groups, outputs]; zeros if there is no place for one.
        ridge: The ridge that it was made with; infinite if only the constant changes.
    """

    weight: Tensor
    constant: Tensor
    ridge: float


class Gram:
    """Running sums over the rows of one layer.

    Args:
        groups: Groups of the layer, each a problem of its own.
        features: What each group reads at a position.
        outputs: What each group puts out.
        device: Where to sum.

    Example:
        >>> x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> gram = Gram(1, 3, 1, torch.device("cpu"))
        >>> gram.add(x[None], (x @ torch.tensor([[1.0], [2.0], [0.0]]).double() + 5)[None])
        >>> change = gram.solve(ridge=1e-12, has_constant=True)
        >>> [round(abs(number), 6) for number in [*change.weight.flatten().tolist(), change.constant.item()]]
        [1.0, 2.0, 0.0, 5.0]
    """

    def __init__(self, groups: int, features: int, outputs: int, device: torch.device) -> None:
        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(groups, *sizes, dtype=torch.float64, device=device)

        self.xx, self.xr = zeros(features, features), zeros(features, outputs)
        self.x, self.r, self.rr = zeros(features), zeros(outputs), zeros(outputs)
        self.rows = 0
        self._known: dict[tuple[bool, torch.dtype], _System] = {}

    def add(self, x: Float[Tensor, "groups rows features"], r: Float[Tensor, "groups rows outputs"]) -> None:
        """Add rows, in float64; of `xx` what lies on and below the diagonal blocks."""
        add_products(self.xx, x)
        self.xr.baddbmm_(x.transpose(1, 2), r)
        self.x += x.sum(1)
        self.r += r.sum(1)
        self.rr += r.square().sum(1)
        self.rows += x.shape[1]
        self._known = {}

    def join(self, other: "Gram | HeldRows") -> "Gram":
        """The sums over the rows of both, which are sums."""
        assert isinstance(other, Gram), "it belongs to the same layer"
        joined = Gram.__new__(Gram)
        for name in ("xx", "xr", "x", "r", "rr", "rows"):
            setattr(joined, name, getattr(self, name) + getattr(other, name))
        joined._known = {}
        return joined

    @property
    def missing(self) -> float:
        """Sum of the squares of all that is missing."""
        return max(float(self.rr.sum()), 0.0)

    def some(self) -> "Gram":
        """The same sums for some of the outputs, evenly spread."""
        outputs = self.r.shape[1]
        if outputs <= _SOME:
            return self
        chosen = chosen_outputs(outputs).to(self.r.device)
        made = Gram.__new__(Gram)
        made.xx, made.x, made.rows = self.xx, self.x, self.rows
        made.xr, made.r, made.rr = self.xr[..., chosen], self.r[:, chosen], self.rr[:, chosen]
        made._known = {}
        return made

    def nothing(self) -> Change:
        """No change at all."""
        return Change(torch.zeros_like(self.xr), torch.zeros_like(self.r), inf)

    def solve(self, ridge: float, *, has_constant: bool, dtype: torch.dtype = torch.float64) -> Change:
        """Find what makes up for what is missing.

        Args:
            ridge: Of each input's variance; raised tenfold until the system can be solved. Infinite: only the
                constant changes.
            has_constant: Whether there is a place for a constant.
            dtype: The type in which the system is solved.
        """
        weight = torch.zeros_like(self.xr)
        if ridge < inf:
            weight, ridge = self._solved(ridge, has_constant, dtype)
        constant = torch.zeros_like(self.r)
        if has_constant:
            constant = (self.r - torch.einsum("gfo,gf->go", weight, self.x)) / self.rows
        return Change(weight, constant, ridge)

    def _solved(self, ridge: float, has_constant: bool, dtype: torch.dtype) -> tuple[Tensor, float]:
        if (has_constant, dtype) not in self._known:
            self._known[has_constant, dtype] = self._system(has_constant, dtype)
        xx, xr, moving, scale = self._known[has_constant, dtype]
        while ridge <= RIDGES[0]:
            damped = xx.clone()
            damped.diagonal(dim1=1, dim2=2).add_(ridge * scale)
            factor, failed = torch.linalg.cholesky_ex(damped)  # which reads the lower half
            if not bool(failed.any()):
                found = torch.cholesky_solve(xr, factor).double()
                if bool(found.isfinite().all()):
                    return torch.where(moving[:, :, None], found, torch.zeros_like(found)), ridge
            ridge *= 10
        return torch.zeros_like(self.xr), inf

    def _system(self, has_constant: bool, dtype: torch.dtype) -> "_System":
        """The products around the means, which inputs vary, and what the ridge is a share of."""
        xx, xr = self.xx, self.xr
        size = xx.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        if has_constant:
            xx = torch.baddbmm(xx, self.x[:, :, None], self.x[:, None, :], alpha=-1 / self.rows)
            xr = torch.baddbmm(xr, self.x[:, :, None], self.r[:, None, :], alpha=-1 / self.rows)
        moving, scale = moving_inputs(xx.diagonal(dim1=1, dim2=2).clone(), size)
        return xx.to(dtype), xr.to(dtype), moving, scale.to(dtype)

    def _times(self, weight: Tensor) -> Tensor:
        """X'X times a weight."""
        mirror(self.xx)
        return torch.bmm(self.xx, weight)

    def left_by(self, change: Change) -> Tensor:
        """The squares that a change leaves, summed over the rows: [groups, outputs]."""
        weight, constant = change.weight, change.constant
        drift = torch.einsum("gfo,gf->go", weight, self.x)
        by_weight = (weight * (self._times(weight) - 2 * self.xr)).sum(1)
        left = self.rr + by_weight + constant * (2 * drift - 2 * self.r + self.rows * constant)
        return left.clamp(min=0)

    def apply(self, change: Change) -> None:
        """Make the sums those of what is still missing after a change."""
        weight, constant = change.weight, change.constant
        self.rr = self.left_by(change)
        self.xr -= self._times(weight) + self.x[:, :, None] * constant[:, None, :]
        self.r -= torch.einsum("gfo,gf->go", weight, self.x) + self.rows * constant
        self._known = {}


def chosen_outputs(outputs: int) -> Tensor:
    """Some outputs, evenly spread."""
    return torch.linspace(0, outputs - 1, min(outputs, _SOME)).round().long()


def moving_inputs(own: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Which inputs vary, and what the ridge is a share of: [groups, features].

    Args:
        own: The squares of each input, around its mean where there is a place for a constant.
        size: The mean of the squares of the inputs: [groups, 1].
    """
    # Inputs that never change leave rounding errors in their squares; beside the others' it is nothing.
    moving = own > 1e-12 * size
    middle = own.masked_fill(~moving, torch.nan).nanmedian(1, keepdim=True).values
    scale = torch.maximum(own, _QUIET * middle)
    return moving, torch.where(moving, scale, torch.where(size > 0, size, torch.ones_like(size)))


def choose_ridge(fit: "Gram | HeldRows", test: "Gram | HeldRows", *, has_constant: bool) -> float | None:
    """The ridge whose change leaves least on rows that it was not made from.

    Args:
        fit: The rows to learn from.
        test: Other rows.
        has_constant: Whether there is a place for a constant.

    Returns:
        One of `RIDGES`, raised where a system cannot be solved; infinite if no change of the weight helps;
        None if no constant does, either.
    """
    if test.rows == 0:
        return _UNTESTED
    fit, test = fit.some(), test.some()

    @cache
    def tried(at: int) -> tuple[float, float]:
        dtype = torch.float32 if RIDGES[at] >= _FINE else torch.float64
        change = fit.solve(RIDGES[at], has_constant=has_constant, dtype=dtype)
        return float(test.left_by(change).sum()), change.ridge

    at = _lowest(lambda at: tried(at)[0])
    constant = fit.solve(inf, has_constant=has_constant)
    still = (float(test.left_by(constant).sum()), inf)
    left, ridge = min(tried(at), still)
    return ridge if left < test.missing else None


def _lowest(error: Callable[[int], float]) -> int:
    """Which of the ridges leaves least, walking downhill from the first one."""
    at = _FIRST
    for step in (1, -1):
        while 0 <= at + step < len(RIDGES) and error(at + step) < error(at):
            at += step
    return at
