"""First-order Taylor: how much the loss changes when a weight becomes zero, to first order.

    score = sum over batches of (gradient * weight)^2

References:
    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8.
    https://arxiv.org/abs/1906.10771
"""

from torch import Tensor

from secateur.mask.criterion import criterion


@criterion("taylor", of="gradients")
def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """The squared first-order change of the loss on one batch.

    Example:
        >>> import torch
        >>> taylor(torch.tensor([2.0, 1.0]), torch.tensor([0.5, -3.0])).tolist()
        [1.0, 9.0]
    """
    return (gradient * weight) ** 2
