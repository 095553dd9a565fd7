"""Ridge least squares where there are fewer rows than inputs, from the rows themselves.

The solution of `gram` lies in the span of the rows, so it is found among as many numbers as there are rows:
with X and R centred where there is a place for a constant, and S as there,

    D = S^-1 X' (X S^-1 X' + ridge)^-1 R

is (X'X + ridge S)^-1 X'R. A classifier that reads 25,088 numbers of 48 images holds 48 rows, not 5 GB.
"""

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.recovery.gram import RIDGES, Change, Gram, chosen_outputs, moving_inputs


class HeldRows:
    """The rows of one layer; to be asked like a `Gram`.

    Args:
        x: [groups, rows, features] in float64.
        r: [groups, rows, outputs].

    Example:
        >>> x = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> held = HeldRows(x[None], x[None, :, :2] + 5)
        >>> change = held.solve(ridge=1e-9, has_constant=True)
        >>> round(float(held.left_by(change).sum()), 6)
        0.0
    """

    def __init__(
        self, x: Float[Tensor, "groups rows features"], r: Float[Tensor, "groups rows outputs"]
    ) -> None:
        self._x, self._r = [x], [r]
        self._known: tuple[tuple[bool, int], Tensor, Tensor] | None = None

    @property
    def x(self) -> Float[Tensor, "groups rows features"]:
        """What the layer reads."""
        if len(self._x) > 1:
            self._x = [torch.cat(self._x, 1)]
        return self._x[0]

    @property
    def r(self) -> Float[Tensor, "groups rows outputs"]:
        """What is missing."""
        if len(self._r) > 1:
            self._r = [torch.cat(self._r, 1)]
        return self._r[0]

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(part.shape[1] for part in self._x)

    def add(self, x: Float[Tensor, "groups rows features"], r: Float[Tensor, "groups rows outputs"]) -> None:
        """Add rows, in float64."""
        self._x.append(x)
        self._r.append(r)

    def join(self, other: "Gram | HeldRows") -> "HeldRows":
        """The rows of both, which are held."""
        assert isinstance(other, HeldRows), "it belongs to the same layer"
        return HeldRows(torch.cat([self.x, other.x], 1), torch.cat([self.r, other.r], 1))

    @property
    def missing(self) -> float:
        """Sum of the squares of all that is missing."""
        return float(self.r.square().sum())

    def some(self) -> "HeldRows":
        """The same rows for some of the outputs, evenly spread."""
        return HeldRows(self.x, self.r[..., chosen_outputs(self.r.shape[-1]).to(self.r.device)])

    def nothing(self) -> Change:
        """No change at all."""
        groups, _, outputs = self.r.shape
        return Change(
            self.x.new_zeros(groups, self.x.shape[2], outputs), self.r.new_zeros(groups, outputs), inf
        )

    def solve(self, ridge: float, *, has_constant: bool, dtype: torch.dtype = torch.float64) -> Change:
        """Find what makes up for what is missing; as `Gram.solve`, in float64 whatever the type."""
        change = self.nothing()
        weight, constant = change.weight, change.constant
        if ridge < inf:
            weight, ridge = self._solved(ridge, has_constant)
        if has_constant:
            constant = self.r.mean(1) - torch.einsum("gfo,gf->go", weight, self.x.mean(1))
        return Change(weight, constant, ridge)

    def _solved(self, ridge: float, has_constant: bool) -> tuple[Tensor, float]:
        scaled, square = self._system(has_constant)
        r = self.r - self.r.mean(1, keepdim=True) if has_constant else self.r
        while ridge <= RIDGES[0]:
            damped = square.clone()
            damped.diagonal(dim1=1, dim2=2).add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if not bool(failed.any()):
                # Laid out as the weight of a linear layer is.
                return (torch.cholesky_solve(r, factor).transpose(1, 2) @ scaled).transpose(1, 2), ridge
            ridge *= 10
        return self.nothing().weight, inf

    def _system(self, has_constant: bool) -> tuple[Tensor, Tensor]:
        """X S^-1 and X S^-1 X', the same for all ridges."""
        if self._known is None or self._known[0] != (has_constant, self.rows):
            x = self.x - self.x.mean(1, keepdim=True) if has_constant else self.x
            moving, scale = moving_inputs(x.square().sum(1), self.x.square().sum(1).mean(1, keepdim=True))
            scaled = torch.where(moving, 1 / scale, torch.zeros_like(scale))[:, None] * x
            self._known = (has_constant, self.rows), scaled, scaled @ x.transpose(1, 2)
        return self._known[1:]

    def left_by(self, change: Change) -> Float[Tensor, "groups outputs"]:
        """The squares that a change leaves, summed over the rows."""
        return self._left(change).square().sum(1)

    def _left(self, change: Change) -> Tensor:
        return self.r - torch.bmm(self.x, change.weight) - change.constant[:, None]

    def apply(self, change: Change) -> None:
        """Make the rows those of what is still missing after a change."""
        self._r = [self._left(change)]
