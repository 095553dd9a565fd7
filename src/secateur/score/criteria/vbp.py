"""Score channels by variance-based pruning:  s_c = Var(a_c), to be used with the recovery step `absorb`."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.moments import Moments


@criterion("vbp", of="activations", normalise="mean")
def vbp(moments: Moments) -> Float[Tensor, " channels"]:
    """Take the variance of what each channel says; the mean moves into the bias of the next layer.

    Larger scores mean: keep. The same as `activation-variance`, under the name that goes with `absorb`. The
    paper ranks the hidden units of all MLPs as they are: `criterion("vbp", normalise="none")`.

    Args:
        moments: The statistics of one activation of the group, over all samples and pixels of the data.

    Returns:
        One score for each channel, at least 0, in the squared units of the activation.

    Example:
        >>> import torch
        >>> vbp(Moments.of(torch.tensor([[0.0, 2.0], [-3.0, -3.0]])))
        tensor([1., 0.], dtype=torch.float64)

    References:
        Berisha et al., "Variance-Based Pruning for Accelerating and Compressing Trained Networks", ICCV 2025,
        section 3. https://arxiv.org/abs/2507.12988
    """
    return moments.variance
