"""Every tensor loses the same share."""

from collections.abc import Sequence

from torch import Tensor

from secateur.mask.amount import Amount
from secateur.mask.scope import scopes
from secateur.mask.structure import Units


@scopes("local")
def local(units: Sequence[Units], amounts: Sequence[Amount]) -> list[Tensor]:
    """Mask the lowest units of each tensor by itself.

    Example:
        >>> import torch
        >>> one = Units("w", torch.tensor([3.0, 1.0, 2.0]), torch.ones(3).bool(), 1, (3,))
        >>> [keep.int().tolist() for keep in local([one], [Amount(1)])]
        [[1, 0, 1]]
    """
    pairs = zip(units, amounts, strict=True)
    return [one.lowest(amount.count(len(one.scores), int(one.alive.sum()))) for one, amount in pairs]


scopes.add("uniform", local)
