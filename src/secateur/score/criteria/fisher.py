"""Score channels by the diagonal of the Fisher matrix:  s_c = 1/2 sum over p of  w_p^2 mean (dL/dw_p)^2."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.view import Gradients


@criterion("fisher", of="gradients", normalise="mean")
def fisher(gradients: Gradients) -> Float[Tensor, " channels"]:
    """Take the second-order change of the loss with the diagonal of the empirical Fisher matrix as curvature.

    Larger scores mean: keep. Gradients are those of single samples; the squares of batch gradients would
    depend on the size of the batch. Interactions inside a channel do not count: see `jacobian`.

    Args:
        gradients: Those of the group's channels.

    Returns:
        One score for each channel, at least 0, in the squared units of the loss.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> fisher(SimpleNamespace(diagonal=torch.tensor([4.0, 1.0])))
        tensor([2.0000, 0.5000])

    References:
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, section 2.1.
        https://arxiv.org/abs/1801.05787
    """
    return 0.5 * gradients.diagonal
