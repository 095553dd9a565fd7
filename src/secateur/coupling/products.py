"""Products of rows with themselves, X'X: half of each is made, as the other half is the same numbers."""

from jaxtyping import Float
from torch import Tensor

_BLOCK = 512
"""Inputs whose products are made at once."""


def add_products(
    sums: Float[Tensor, "groups inputs inputs"], rows: Float[Tensor, "groups rows inputs"]
) -> None:
    """Add the products of rows to sums, on and below the blocks on the diagonal; what lies above stays.

    Args:
        sums: Written into, in whatever type it has.
        rows: The rows, in theirs.

    Example:
        >>> import torch
        >>> rows, sums = torch.randn(1, 8, 600), torch.zeros(1, 600, 600)
        >>> add_products(sums, rows)
        >>> mirror(sums)
        >>> torch.allclose(sums, rows.mT @ rows, atol=1e-4)
        True
    """
    for at in range(0, rows.shape[2], _BLOCK):
        block = slice(at, at + _BLOCK)
        below, part = rows[:, :, at:].mT, rows[:, :, block]
        if sums.dtype == rows.dtype:
            sums[:, at:, block].baddbmm_(below, part)
        else:
            sums[:, at:, block] += below @ part


def mirror(sums: Float[Tensor, "*groups inputs inputs"]) -> None:
    """Write what lies below the diagonal above it, too; in place."""
    for at in range(0, sums.shape[-1], _BLOCK):
        end = at + _BLOCK
        sums[..., at:end, end:] = sums[..., end:, at:end].mT
