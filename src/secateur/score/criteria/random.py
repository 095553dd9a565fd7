"""Score channels by chance: the baseline that every criterion must beat."""

import zlib

import torch
from torch import Tensor

from secateur.score.criterion import Criterion, criteria
from secateur.score.view import GroupView


def random(view: GroupView) -> Tensor:
    """Draw a score in [0, 1) for each channel, from the seed and the group's name.

    Example:
        >>> random(GroupView("conv1", 3, (), seed=0)).shape
        torch.Size([3])

    References:
        Mittal et al., "Recovering from Random Pruning", 2018. https://arxiv.org/abs/1801.10447
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{view.seed} {view.name}".encode()))
    return torch.rand(view.size, generator=generator, dtype=torch.float64, device="cpu")


criteria.add("random", Criterion("random", random, lambda view: [view], "a group", aggregate=None))
