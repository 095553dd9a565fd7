"""The ranks of feature maps, the mean over all samples."""

import torch
from torch import Tensor

from secateur.score.observations import Evidence, evidence
from secateur.score.values import ReadValue


class Ranks(Evidence[tuple[Tensor, int]]):
    """Sums of ranks, and the number of samples."""

    reads = "feature maps of height and width"

    def watches(self, value: ReadValue) -> bool:
        """Maps alone have a rank."""
        return value.has_maps

    def look(self, tensor: Tensor, value: ReadValue) -> tuple[Tensor, int] | None:
        """The rank of each map, summed over the batch."""
        if not bool(torch.isfinite(tensor).all()):
            return None
        maps = tensor.resolve_conj().resolve_neg().movedim(value.dim, 1)
        maps = maps if maps.is_complex() or maps.dtype == torch.float64 else maps.float()
        return torch.linalg.matrix_rank(maps).double().sum(0), len(maps)

    def add(self, one: tuple[Tensor, int], two: tuple[Tensor, int]) -> tuple[Tensor, int]:
        """Of both batches."""
        return one[0] + two[0], one[1] + two[1]

    def show(self, found: tuple[Tensor, int], value: ReadValue) -> Tensor:
        """The mean rank of each channel's maps."""
        ranks, count = found
        return ranks[value.places.to(ranks.device)].mean(1) / count


evidence.add("ranks", Ranks())
