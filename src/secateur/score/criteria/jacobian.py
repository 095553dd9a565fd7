"""Score channels by the Jacobian criterion:  s_c = mean over samples of (sum over p of  w_p dL/dw_p)^2."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.view import Gradients


@criterion("jacobian", of="gradients", normalise="mean")
def jacobian(gradients: Gradients) -> Float[Tensor, " channels"]:
    """Take the mean square of the first-order change of each sample's loss.

    Larger scores mean: keep. The sum runs over all parameters of a structure, bias and scale joined with the
    weights, before it is squared: interactions inside a structure count. At a minimum, where the mean of the
    gradients vanishes and `taylor` sees nothing, this still tells channels apart.

    Args:
        gradients: Those of the group's channels.

    Returns:
        One score for each channel, at least 0, in the squared units of the loss.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> jacobian(SimpleNamespace(square=torch.tensor([4.0, 1.0])))
        tensor([4., 1.])

    References:
        Chen et al., "Optimal Brain Connection: Towards Efficient Structural Pruning", 2025.
        https://arxiv.org/abs/2508.05521
    """
    return gradients.square
