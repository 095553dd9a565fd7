"""Backward elimination from fewer rows than inputs, without a matrix of inputs by inputs.

A layer that reads 25,088 numbers has moments of 5 GB, and inverting them takes many minutes, though of 48
images they hold no more than 48 rows do. With X the rows, D a diagonal and H = X'X + D, by Woodbury,

    P = H^-1 = D^-1 - V'V,      V = L^-1 X D^-1,      L L' = 1 + X D^-1 X'

so the blocks of P that elimination asks for (`score/elimination.py`) come from V, which is rows by inputs,
and what is removed leaves X and D.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FewRows:
    """Second moments that are not multiplied out: H = X'X + diag(D).

    Attributes:
        rows: X.
        own: D, not negative.

    Example:
        >>> FewRows(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5, 0.0])).dense().tolist()
        [[1.5, 2.0], [2.0, 4.0]]
    """

    rows: Float[Tensor, "rows inputs"]
    own: Float[Tensor, " inputs"]

    def __len__(self) -> int:
        """How many inputs."""
        return len(self.own)

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers."""
        return self.own.dtype

    def to(self, dtype: torch.dtype) -> "FewRows":
        """The same in another type."""
        return FewRows(self.rows.to(dtype), self.own.to(dtype))

    def diagonal(self) -> Float[Tensor, " inputs"]:
        """The diagonal of H."""
        return self.rows.square().sum(0) + self.own

    def dense(self) -> Float[Tensor, "inputs inputs"]:
        """H."""
        return self.rows.T @ self.rows + self.own.diag()

    def select(self, inputs: Tensor) -> "FewRows":
        """The moments of some of the inputs: by index or mask."""
        return FewRows(self.rows[:, inputs], self.own[inputs])

    def product(self, weight: Float[Tensor, "inputs outputs"]) -> Float[Tensor, "inputs outputs"]:
        """H W."""
        return self.rows.T @ (self.rows @ weight) + self.own[:, None] * weight


class FewRowsInverse:
    """P, for what is left.

    Args:
        moments: H; D must be positive.
    """

    def __init__(self, moments: FewRows) -> None:
        self.moments = moments
        self.across = self._across()

    def _across(self) -> Tensor:
        """V."""
        scaled = self.moments.rows / self.moments.own
        square = scaled @ self.moments.rows.T
        square.diagonal().add_(1)
        return torch.linalg.solve_triangular(torch.linalg.cholesky(square), scaled, upper=False)

    def __len__(self) -> int:
        """How many inputs are left."""
        return len(self.moments)

    def blocks(self, units: int, width: int) -> Float[Tensor, "units width width"]:
        """The blocks on the diagonal of the first units."""
        across = self.across[:, : units * width].view(-1, units, width).transpose(0, 1)
        own = (1 / self.moments.own[: units * width]).view(units, width)
        return torch.baddbmm(torch.diag_embed(own), across.transpose(1, 2), across, alpha=-1)

    def remove(
        self, rows: Tensor, weight: Float[Tensor, "inputs outputs"]
    ) -> tuple[Float[Tensor, "left outputs"], float]:
        """Leave rows out.

        Args:
            rows: Their mask.
            weight: W.

        Returns:
            W of those that stay, after; and tr(W_R' P_RR^-1 W_R), what it costs twice.
        """
        across, left = self.across[:, rows], ~rows
        square = torch.addmm((1 / self.moments.own[rows]).diag(), across.T, across, alpha=-1)
        solved = torch.cholesky_solve(weight[rows], torch.linalg.cholesky(square))
        cost = float((weight[rows] * solved).sum())
        weight = weight[left].addmm_(self.across[:, left].T, across @ solved)
        self.moments = self.moments.select(left)
        self.across = self._across()
        return weight, cost
