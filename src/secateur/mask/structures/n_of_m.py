"""N:M sparsity: of each m consecutive inputs at most n stay, in every row.

The m entries of a group follow each other along the inputs (dim 1), as the sparse tensor cores of NVIDIA's
Ampere want them for 2:4.

References:
    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, sections 3 and 4.
    https://arxiv.org/abs/2104.08378
"""

from dataclasses import replace

import torch
from torch import Tensor

from secateur.errors import RequestError
from secateur.mask.structure import Structure, Units, structures


class NOfM(Structure):
    """At most n of each m consecutive inputs stay.

    Args:
        n: How many stay.
        m: Size of a group.

    Example:
        >>> structure, scores = NOfM(2, 4), torch.tensor([[4.0, 1.0, 3.0, 2.0]])
        >>> structure.spread(structure.units("w", scores, torch.ones(1, 4)).alive, (1, 4)).int().tolist()
        [[1, 0, 1, 0]]
    """

    rank = 2

    def __init__(self, n: int, m: int) -> None:
        if not 0 < n <= m:
            raise RequestError(f"{n}:{m} keeps {n} of {m}", do="write n:m with 0 < n <= m, such as 2:4")
        self.n, self.group = n, m

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """The inputs must be whole groups."""
        if len(shape) > 1 and shape[1] % self.group:
            return f"its {shape[1]} inputs are no multiple of {self.group}"
        return super().misfit(shape)

    def rows(self, tensor: Tensor) -> Tensor:
        """One row for each entry, those of a group after each other."""
        return tensor.movedim(1, -1).reshape(-1, 1)

    def units(self, name: str, scores: Tensor, mask: Tensor) -> Units:
        """One unit for each entry; alive are the n highest of each group that are not masked."""
        found = super().units(name, scores, mask)
        groups, alive = found.scores.view(-1, self.group), found.alive.view(-1, self.group)
        best = groups.masked_fill(~alive, -torch.inf).topk(self.n, dim=1).indices
        keep = torch.zeros_like(alive).scatter_(1, best, True) & alive
        return replace(found, alive=keep.flatten())

    def spread(self, keep: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Back from groups to the tensor's shape."""
        return keep.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


structures.add(r"(\d+):(\d+)", lambda match, dim: NOfM(int(match[1]), int(match[2])))
