"""LAMP: all tensors compare by what a weight is worth among the larger ones of its own tensor.

    score(u) = W[u]^2 / sum over v with |W[v]| >= |W[u]| of W[v]^2

References:
    Lee et al., "Layer-Adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, equation 4.
    https://arxiv.org/abs/2010.07611
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.mask.amount import Amount
from secateur.mask.scope import count_of_all, lowest_of_all, scopes
from secateur.mask.structure import Units


@scopes("lamp")
def lamp(units: Sequence[Units], amounts: Sequence[Amount]) -> list[Tensor]:
    """Rank all units by their LAMP score.

    The largest unit of each tensor has score 1 and no other has, so no tensor loses all of its units.
    """
    scores = [lamp_scores(one.scores, one.alive) for one in units]
    return lowest_of_all(units, scores, count_of_all(units, amounts[0]))


def lamp_scores(scores: Float[Tensor, " units"], alive: Tensor) -> Float[Tensor, " units"]:
    """Score units by LAMP.

    Args:
        scores: Magnitudes, at least 0.
        alive: Units that are not masked; others count for nothing.

    Example:
        >>> lamp_scores(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3).bool()).tolist()
        [0.0714..., 0.3076..., 1.0]
    """
    squares = (scores.double() * alive) ** 2
    order = torch.argsort(squares, descending=True, stable=True)
    larger = torch.cumsum(squares[order], 0)
    result = torch.empty_like(squares)
    result[order] = squares[order] / larger.clamp(min=torch.finfo(torch.float64).tiny)
    return result
