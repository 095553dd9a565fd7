"""Score channels by the L2 norm of their weights:  s_c = sqrt(sum_j w_cj^2)."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion


@criterion("l2", of="weights", normalise="mean", is_by_row=True)
def l2(weight: Float[Tensor, "channels rest"]) -> Float[Tensor, " channels"]:
    """Take the Euclidean norm of the weights of each channel.

    Larger scores mean: keep.

    Args:
        weight: One row for each channel, in the units of the layer.

    Returns:
        One score for each channel, at least 0, in the units of the layer.

    Example:
        >>> import torch
        >>> l2(torch.tensor([[3.0, -4.0], [0.0, 1.0]]))
        tensor([5., 1.])

    References:
        He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018,
        equation 2 with p = 2. https://arxiv.org/abs/1808.06866
    """
    return weight.norm(dim=1)
