"""Score channels by their mean absolute activation:  s_c = mean over samples and pixels of |a_c|."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.moments import Moments


@criterion("activation-abs", of="activations", normalise="mean")
def activation_abs(moments: Moments) -> Float[Tensor, " channels"]:
    """Take the mean size of what each channel says, after norm and activation.

    Larger scores mean: keep. Behind a ReLU this is `activation-mean`.

    Args:
        moments: The statistics of one activation of the group, over all samples and pixels of the data.

    Returns:
        One score for each channel, at least 0, in the units of the activation.

    Example:
        >>> import torch
        >>> activation_abs(Moments.of(torch.tensor([[0.0, 2.0], [-3.0, -3.0]])))
        tensor([1., 3.], dtype=torch.float64)

    References:
        Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
        section 2.2, "activation". https://arxiv.org/abs/1611.06440
    """
    return moments.magnitude
