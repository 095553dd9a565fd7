"""Score channels by first-order Taylor expansion:  s_c = |sum over all entries p of  w_p dL/dw_p|."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.view import Gradients


@criterion("taylor", of="gradients", normalise="mean")
def taylor(gradients: Gradients) -> Float[Tensor, " channels"]:
    """Take how much the loss changes, to first order, when all coupled slices of a channel shrink together.

    Larger scores mean: keep. Weights times gradients are summed over samples and over the whole group before
    the absolute value is taken, so that what cancels does cancel.

    Args:
        gradients: Those of the group's channels.

    Returns:
        One score for each channel, at least 0, in the units of the loss.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> taylor(SimpleNamespace(mean=torch.tensor([-2.0, 1.0])))
        tensor([2., 1.])

    References:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3.1.
        https://arxiv.org/abs/1906.10771
    """
    return gradients.mean.abs()
