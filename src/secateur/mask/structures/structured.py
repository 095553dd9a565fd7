"""Whole channels along one dim."""

from math import prod

from torch import Tensor

from secateur.mask.structure import Structure, Units, structures


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

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Tensors of one dim have no channels, only entries."""
        if not -len(shape) <= self.dim < len(shape):
            return f"it has {len(shape)} dims, dim is {self.dim}"
        return super().misfit(shape)

    def units(self, name: str, scores: Tensor, mask: Tensor) -> Units:
        """One unit for each channel."""
        by_channel = scores.movedim(self.dim, 0).flatten(1)
        alive = (mask.movedim(self.dim, 0).flatten(1) != 0).any(1)
        shape = tuple(scores.shape)
        return Units(name, by_channel.mean(1), alive, by_channel.shape[1], shape, must_keep_one=True)

    def spread(self, keep: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Every entry of a channel alike."""
        rest = prod(shape) // shape[self.dim]
        others = [size for at, size in enumerate(shape) if at != self.dim % len(shape)]
        return keep[:, None].expand(-1, rest).reshape(-1, *others).movedim(0, self.dim)


structures.add("structured", lambda match, dim: Structured(dim))
