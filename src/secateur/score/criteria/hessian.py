"""Score channels by the curvature of the loss:  s_c = 1/2 |w_c^T H w_c|,  w_c all its slices."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.view import Gradients


@criterion("hessian", of="gradients", normalise="mean")
def hessian(gradients: Gradients) -> Float[Tensor, " channels"]:
    """Take the second-order change of the loss when a channel's slices vanish together.

    Larger scores mean: keep. The true Hessian, by second derivatives of the loss along random directions
    (16 of them, from the seed; a model of 16 channels or fewer is done exactly). OBD takes single weights;
    here the block of a whole channel counts.

    Args:
        gradients: Those of the group's channels.

    Returns:
        One score for each channel, at least 0, in the units of the loss.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> hessian(SimpleNamespace(curvature=torch.tensor([-2.0, 1.0])))
        tensor([1.0000, 0.5000])

    References:
        LeCun et al., "Optimal Brain Damage", NIPS 1989, equation 5; the estimator: Hutchinson 1990, as in
        Yao et al., "Hessian-Aware Pruning and Optimal Neural Implant", WACV 2022.
        https://arxiv.org/abs/2101.08940
    """
    return 0.5 * gradients.curvature.abs()
