"""Whole channels along one dim."""

from torch import Tensor

from secateur.mask.structure import Structure, structures


class Structured(Structure):
    """Whole channels along one dim.

    Args:
        dim: Which dim holds the channels; 0 are the outputs of a layer, 1 its inputs.

    Example:
        >>> import torch
        >>> units = Structured(1).units("w", torch.tensor([[3.0, 1.0], [2.0, 2.0]]), torch.ones(2, 2))
        >>> units.scores.tolist(), Structured(1).spread(units.lowest(1), (2, 2)).int().tolist()
        ([2.5, 1.5], [[1, 0], [1, 0]])
    """

    rank = 2
    must_keep_one = True

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Tensors of one dim have no channels, only entries."""
        if not -len(shape) <= self.dim < len(shape):
            return f"it has {len(shape)} dims, dim is {self.dim}"
        return super().misfit(shape)

    def rows(self, tensor: Tensor) -> Tensor:
        """One row for each channel."""
        return tensor.movedim(self.dim, 0).flatten(1)

    def spread(self, keep: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Every entry of a channel alike."""
        return keep.view([-1 if at == self.dim % len(shape) else 1 for at in range(len(shape))]).expand(shape)


structures.add("structured", lambda match, dim: Structured(dim))
