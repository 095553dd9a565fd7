"""All tensors compare with each other."""

from collections.abc import Sequence

from torch import Tensor

from secateur.mask.amount import Amount
from secateur.mask.scope import count_of_all, lowest_of_all, scopes
from secateur.mask.structure import Units


@scopes("global")
def everywhere(units: Sequence[Units], amounts: Sequence[Amount]) -> list[Tensor]:
    """Mask the lowest units of all tensors together.

    Example:
        >>> import torch
        >>> alive = torch.ones(2).bool()
        >>> small = Units("a", torch.tensor([1.0, 2.0]), alive, 1, (2,))
        >>> large = Units("b", torch.tensor([10.0, 20.0]), alive, 1, (2,))
        >>> [keep.int().tolist() for keep in everywhere([small, large], [Amount(0.5)] * 2)]
        [[0, 0], [1, 1]]
    """
    return lowest_of_all(units, [one.scores for one in units], count_of_all(units, amounts[0]))
