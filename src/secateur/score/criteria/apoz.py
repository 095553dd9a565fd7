"""Score channels by how often they are active:  s_c = 1 - share of samples and pixels with a_c = 0."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.moments import Moments


@criterion("apoz", of="activations", normalise="none")
def apoz(moments: Moments) -> Float[Tensor, " channels"]:
    """Take the share of activations that are not exactly zero: one minus the average percentage of zeros.

    Larger scores mean: keep. Made for ReLU; activations that never are exactly zero (GELU, SiLU) give every
    channel a 1.

    Args:
        moments: The statistics of one activation of the group, over all samples and pixels of the data.

    Returns:
        One score for each channel, from 0 to 1, without unit.

    Example:
        >>> import torch
        >>> apoz(Moments.of(torch.tensor([[0.0, 2.0], [-3.0, -3.0]])))
        tensor([0.5000, 1.0000], dtype=torch.float64)

    References:
        Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
        Architectures", 2016, equation 1. https://arxiv.org/abs/1607.03250
    """
    return 1 - moments.zeros
