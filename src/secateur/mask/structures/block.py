"""Rectangles of a weight matrix, such as 1x4 or 16x16.

The matrix of a convolution is what a matrix product sees: one row for each output, one column for each input
and kernel position. Blocks at the lower and right edge may be smaller.

References:
    Narang et al., "Block-Sparse Recurrent Neural Networks", 2017. https://arxiv.org/abs/1711.02782
"""

from math import prod

from torch import Tensor
from torch.nn import functional

from secateur.errors import RequestError
from secateur.mask.structure import Structure, structures


class BlockStructure(Structure):
    """Rectangles of a weight matrix.

    Args:
        height: Rows (outputs) of a block.
        width: Columns (inputs) of a block.

    Example:
        >>> import torch
        >>> units = BlockStructure(1, 2).units("w", torch.tensor([[1.0, 2.0, 5.0]]), torch.ones(1, 3))
        >>> units.scores.tolist(), BlockStructure(1, 2).spread(units.lowest(1), (1, 3)).int().tolist()
        ([1.5, 5.0], [[0, 0, 1]])
    """

    rank = 2

    def __init__(self, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise RequestError(f"a block of {height}x{width} is empty", do="write positive sizes such as 1x4")
        self.height, self.width = height, width

    def rows(self, tensor: Tensor) -> Tensor:
        """One row for each block, padded with zeros."""
        matrix = tensor.flatten(1)
        height, width = matrix.shape
        padded = functional.pad(matrix, (0, -width % self.width, 0, -height % self.height))
        tiles = padded.unflatten(1, (-1, self.width)).unflatten(0, (-1, self.height))
        return tiles.transpose(1, 2).flatten(2).flatten(0, 1)

    def spread(self, keep: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Every entry of a block alike."""
        matrix = keep.view(-(-shape[0] // self.height), -1)
        matrix = matrix.repeat_interleave(self.height, 0).repeat_interleave(self.width, 1)
        return matrix[: shape[0], : prod(shape[1:])].reshape(shape)


structures.add(r"(\d+)x(\d+)", lambda match, dim: BlockStructure(int(match[1]), int(match[2])))
