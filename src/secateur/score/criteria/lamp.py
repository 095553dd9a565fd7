"""Score channels by LAMP:  s_c = |w_c|^2 / sum over d with |w_d| >= |w_c| of |w_d|^2."""

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion


@criterion("lamp", of="weights", normalise="none")
def lamp(weight: Float[Tensor, "channels rest"]) -> Float[Tensor, " channels"]:
    """Take the share of each channel in the squared norm of those that would be left when its turn comes.

    Larger scores mean: keep. Within a group the order is that of the L2 norm; the scores, between 0 and 1,
    compare across layers: the strongest channel of each has the highest, so no layer is emptied. The paper
    scores single weights; here a channel's squared norm takes the place of a squared weight.

    Args:
        weight: One row for each channel, in the units of the layer.

    Returns:
        One score for each channel, from 0 to 1, without unit; channels of equal norm have equal scores.

    Example:
        >>> import torch
        >>> lamp(torch.tensor([[1.0], [-2.0], [0.0]]))
        tensor([0.2000, 1.0000, 0.0000])

    References:
        Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, equation 1.
        https://arxiv.org/abs/2010.07611
    """
    squares = weight.square().sum(1)
    ordered, order = squares.sort(descending=True)
    above = ordered.cumsum(0)
    # Of equal norms all count: the sum at the last of them.
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1
    shares = ordered / above[last].clamp_min(torch.finfo(weight.dtype).tiny)
    return torch.empty_like(shares).scatter(0, order, shares)
