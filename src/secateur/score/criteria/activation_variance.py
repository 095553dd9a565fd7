"""Score channels by the variance of their activation:  s_c = mean of (a_c - mean a_c)^2."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.moments import Moments


@criterion("activation-variance", of="activations", normalise="mean")
def activation_variance(moments: Moments) -> Float[Tensor, " channels"]:
    """Take the variance of what each channel says, over samples and pixels, after norm and activation.

    Larger scores mean: keep. A channel that always says the same can go: the constant fits into the biases
    behind it, which is what the recovery step `absorb` does.

    Args:
        moments: The statistics of one activation of the group, over all samples and pixels of the data.

    Returns:
        One score for each channel, at least 0, in the squared units of the activation.

    Example:
        >>> import torch
        >>> activation_variance(Moments.of(torch.tensor([[0.0, 2.0], [-3.0, -3.0]])))
        tensor([1., 0.], dtype=torch.float64)

    References:
        Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
        section 2.2, "activation". https://arxiv.org/abs/1611.06440
    """
    return moments.variance
