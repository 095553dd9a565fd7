"""Score channels by their batch-norm scale:  s_c = |gamma_c|."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion


@criterion("bn-scale", of="norm-scales", normalise="none", is_by_row=True)
def bn_scale(weight: Float[Tensor, "channels rest"]) -> Float[Tensor, " channels"]:
    """Take the absolute scale that batch norm gives each channel.

    Larger scores mean: keep. Scales of all layers compare directly, as the normalised activations have one
    unit; meant for networks trained with an L1 penalty on the scales.

    Args:
        weight: One row for each channel: its scale.

    Returns:
        One score for each channel, at least 0, without unit.

    Example:
        >>> import torch
        >>> bn_scale(torch.tensor([[0.5], [-2.0]]))
        tensor([0.5000, 2.0000])

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
        section 3. https://arxiv.org/abs/1708.06519
    """
    return weight.abs().amax(1)
