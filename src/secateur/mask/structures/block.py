"""Rectangles of a weight matrix, such as 1x4 or 16x16.

The matrix of a convolution is what a matrix product sees: one row for each output, one column for each input
and kernel position. Blocks at the lower and right edge may be smaller.

References:
    Narang et al., "Block-Sparse Recurrent Neural Networks", 2017. https://arxiv.org/abs/1711.02782
"""

import re

import torch
from torch import Tensor
from torch.nn import functional

from secateur.errors import RequestError
from secateur.mask.structure import Structure, Units, structures


class Block(Structure):
    """Rectangles of a weight matrix.

    Args:
        height: Rows (outputs) of a block.
        width: Columns (inputs) of a block.

    Example:
        >>> units = Block(1, 2).units("w", torch.tensor([[1.0, 2.0, 5.0]]), torch.ones(1, 3))
        >>> units.scores.tolist(), Block(1, 2).spread(units.lowest(1), (1, 3)).int().tolist()
        ([1.5, 5.0], [[0, 0, 1]])
    """

    rank = 2

    def __init__(self, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise RequestError(f"a block of {height}x{width} is empty", do="write positive sizes such as 1x4")
        self.height, self.width = height, width

    def units(self, name: str, scores: Tensor, mask: Tensor) -> Units:
        """One unit for each block, row-major."""
        size = self._tiles(torch.ones_like(scores, dtype=torch.float64)).sum(1)
        mean = self._tiles(scores.double()).sum(1) / size
        alive = (self._tiles((mask != 0).double()) != 0).any(1)
        return Units(name, mean, alive, self.height * self.width, tuple(scores.shape))

    def spread(self, keep: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Every entry of a block alike."""
        rows, columns = shape[0], int(torch.Size(shape[1:]).numel())
        across = -(-columns // self.width)
        matrix = keep.view(-1, across).repeat_interleave(self.height, 0).repeat_interleave(self.width, 1)
        return matrix[:rows, :columns].reshape(shape)

    def _tiles(self, tensor: Tensor) -> Tensor:
        """One row for each block, padded with zeros."""
        matrix = tensor.flatten(1)
        rows, columns = matrix.shape
        padded = functional.pad(matrix, (0, -columns % self.width, 0, -rows % self.height))
        down, across = padded.shape[0] // self.height, padded.shape[1] // self.width
        tiles = padded.view(down, self.height, across, self.width).transpose(1, 2)
        return tiles.reshape(down * across, self.height * self.width)


def _make(match: re.Match[str], dim: int) -> Block:
    return Block(int(match[1]), int(match[2]))


structures.add(r"(\d+)x(\d+)", _make)
