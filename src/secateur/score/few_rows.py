"""Backward elimination from fewer rows than inputs, without a matrix of inputs by inputs.

A layer that reads 25,088 numbers has moments of 5 GB, and inverting them takes many minutes, though of 48
images they hold no more than 48 rows do. With X the rows, D a diagonal and H = X'X + D, by Woodbury,

    P = H^-1 = D^-1 - V'V,      V = L^-1 X D^-1,      L L' = 1 + X D^-1 X'

so the blocks of P that elimination asks for (`score/elimination.py`) come from V, which is rows by inputs,
and the removal of some inputs is a product of V with a matrix of rows by rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_DAMPINGS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)
"""Rounding leaves blocks of P that are not positive definite where inputs nearly repeat one another."""


def factor(
    square: Float[Tensor, "*batch n n"],
    scale: Float[Tensor, "*batch n"],
    dampings: Sequence[float] = _DAMPINGS,
) -> Float[Tensor, "*batch n n"]:
    """The Cholesky factor of symmetric matrices, damped by as little as does.

    Args:
        square: They.
        scale: What the damping is a share of, entry by entry of the diagonal; positive.
        dampings: What is tried, one after the other.

    Raises:
        RuntimeError: A matrix is not positive definite with the last one either.

    Example:
        >>> factor(torch.ones(2, 2), torch.ones(2))[1, 1] > 0  # as exact arithmetic would not have it
        tensor(True)
    """
    for damping in dampings[:-1]:
        lower, failed = torch.linalg.cholesky_ex(_damped(square, damping * scale) if damping else square)
        if not bool(failed.any()):
            return lower
    return torch.linalg.cholesky(_damped(square, dampings[-1] * scale))


def _damped(square: Tensor, damping: Tensor) -> Tensor:
    """With something added to the diagonal: one copy, as the matrices of wide layers are large."""
    made = square.clone()
    made.diagonal(dim1=-2, dim2=-1).add_(damping)
    return made


@dataclass(frozen=True, eq=False)
class Places:
    """How the gaps that removed rows leave are closed: the last ones move into them.

    Attributes:
        gaps: Places of removed rows, before the new end.
        movers: The rows that fill them, from beyond it.
        left: How many rows stay.

    Example:
        >>> places = Places.of(torch.tensor([True, False, False, True, False]))
        >>> places.close(torch.tensor([10, 11, 12, 13, 14])).tolist()
        [14, 11, 12]
    """

    gaps: Int[Tensor, " moved"]
    movers: Int[Tensor, " moved"]
    left: int

    @classmethod
    def of(cls, gone: Bool[Tensor, " rows"]) -> "Places":
        """Of a mask of rows."""
        left = len(gone) - int(gone.sum())
        return cls(gone[:left].nonzero()[:, 0], (~gone[left:]).nonzero()[:, 0] + left, left)

    def close(self, tensor: Tensor) -> Tensor:
        """The rows that stay, in the memory of all."""
        tensor[self.gaps] = tensor[self.movers]
        return tensor[: self.left]


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

    def product(self, weight: Float[Tensor, "inputs outputs"]) -> Float[Tensor, "inputs outputs"]:
        """H W."""
        return self.rows.T @ (self.rows @ weight) + self.own[:, None] * weight


class FewRowsInverse:
    """P of some of the inputs: D^-1 - V'V.

    Args:
        own: D of them; positive.
        across: V of them.
    """

    def __init__(self, own: Float[Tensor, " inputs"], across: Float[Tensor, "rows inputs"]) -> None:
        self.own, self.across = own, across

    @classmethod
    def of(cls, moments: FewRows) -> "FewRowsInverse":
        """P of all inputs."""
        scaled = moments.rows / moments.own
        square = scaled @ moments.rows.T
        square.diagonal().add_(1)
        across = torch.linalg.solve_triangular(torch.linalg.cholesky(square), scaled, upper=False)
        return cls(moments.own, across)

    def __len__(self) -> int:
        """How many inputs are left."""
        return len(self.own)

    def select(self, inputs: Tensor) -> "FewRowsInverse":
        """P of some of these inputs, where the others stay."""
        return FewRowsInverse(self.own[inputs], self.across.T[inputs].T)

    @property
    def are_many(self) -> bool:
        """Whether the rows are no longer few beside the inputs that are left."""
        return len(self.own) <= 2 * len(self.across)

    def dense(self) -> Float[Tensor, "inputs inputs"]:
        """P itself."""
        return torch.addmm((1 / self.own).diag(), self.across.T, self.across, alpha=-1)

    def factors(self, units: int, width: int) -> Float[Tensor, "units width width"]:
        """The Cholesky factors of the blocks on the diagonal, unit by unit."""
        across = self.across.view(-1, units, width).transpose(0, 1)
        own = (1 / self.own).view(units, width)
        return factor(torch.baddbmm(torch.diag_embed(own), across.transpose(1, 2), across, alpha=-1), own)

    def remove(
        self, gone: Tensor, places: Places, weight: Float[Tensor, "inputs outputs"]
    ) -> tuple[Float[Tensor, "left outputs"], float]:
        """Leave inputs out, which moves others into their places.

        With G = V_R, D = D_R, A = 1 - G D G' = L L', U = L^-1 G D W_R:  P_RR^-1 = D + D G' A^-1 G D  makes of
        V_S, of W_S and of the cost:  L^-1 V_S,  W_S + V_S' L^-T U  and  tr(W_R' D W_R) + |U|^2.

        Args:
            gone: Which.
            places: Where those lie that stay.
            weight: W; written into.

        Returns:
            W of those that stay, after; and tr(W_R' P_RR^-1 W_R), what it costs twice.
        """
        across, own, removed = self.across.T[gone].T, self.own[gone], weight[gone]
        scaled = across * own
        square = torch.eye(len(across), dtype=own.dtype, device=own.device).addmm_(scaled, across.T, alpha=-1)
        lower = factor(square, square.diagonal().abs())
        moved = torch.linalg.solve_triangular(lower, scaled @ removed, upper=False)
        self.own = places.close(self.own)
        self.across = torch.linalg.solve_triangular(lower, places.close(self.across.T).T, upper=False)
        cost = float((own[:, None] * removed.square()).sum() + moved.square().sum())
        return places.close(weight).addmm_(self.across.T, moved), cost
