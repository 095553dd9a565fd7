"""Movement: weights that training moves towards zero go, however large they are.

    score = - sum over steps of weight * gradient

Over a training run collect it with `Gathering("movement", model)`; with `data` alone the weights stay where
they are and the sum tells where the first steps would move them.

References:
    Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, equation 3.
    https://arxiv.org/abs/2005.07683
"""

from torch import Tensor

from secateur.mask.criterion import criterion


@criterion("movement", of="gradients")
def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """How far one step moves each weight away from zero; negative towards it.

    Example:
        >>> import torch
        >>> movement(torch.tensor([2.0, 2.0]), torch.tensor([1.0, -1.0])).tolist()
        [-2.0, 2.0]
    """
    return -weight * gradient
