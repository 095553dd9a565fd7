"""Score channels by the L1 norm of their weights:  s_c = sum_j |w_cj|."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion


@criterion("l1", of="weights", normalise="mean", is_by_row=True)
def l1(weight: Float[Tensor, "channels rest"]) -> Float[Tensor, " channels"]:
    """Sum the absolute weights of each channel.

    Larger scores mean: keep. Ignores how active the channel is.

    Args:
        weight: One row for each channel, in the units of the layer.

    Returns:
        One score for each channel, at least 0, in the units of the layer.

    Example:
        >>> import torch
        >>> l1(torch.tensor([[3.0, -4.0], [0.0, 1.0]]))
        tensor([7., 1.])

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1.
        https://arxiv.org/abs/1608.08710
    """
    return weight.abs().sum(1)
