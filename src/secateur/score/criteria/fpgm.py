"""Score channels by their distance to all others:  s_c = mean_d |w_c - w_d|."""

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion


@criterion("fpgm", of="weights", normalise="mean")
def fpgm(weight: Float[Tensor, "channels rest"]) -> Float[Tensor, " channels"]:
    """Take the mean Euclidean distance of each channel's weights to those of the group's channels.

    Larger scores mean: keep. The channels nearest to the geometric median of all have the smallest sum of
    distances: what they do, others can do as well. Small weights are not small scores here.

    Args:
        weight: One row for each channel, in the units of the layer.

    Returns:
        One score for each channel, at least 0, in the units of the layer.

    Example:
        >>> import torch
        >>> fpgm(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([2.0000, 1.6667, 3.0000])

    References:
        He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
        CVPR 2019, equations 5 to 7. https://arxiv.org/abs/1811.00250
    """
    return torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").mean(1)
