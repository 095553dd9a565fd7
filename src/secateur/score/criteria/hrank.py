"""Score channels by the rank of their feature maps:  s_c = mean over samples of rank(a_c)."""

from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion


@criterion("hrank", of="ranks", normalise="mean")
def hrank(ranks: Float[Tensor, " channels"]) -> Float[Tensor, " channels"]:
    """Take the average rank of each channel's feature maps, after norm and activation.

    Larger scores mean: keep. A map of low rank holds little information. Groups compare relative to their
    mean, as maps of deeper layers are smaller. Groups without maps (linear layers) are left alone.

    Args:
        ranks: The mean rank of each channel's maps over all samples.

    Returns:
        One score for each channel, from 0 to the smaller side of the map.

    Example:
        >>> import torch
        >>> hrank(torch.tensor([3.5, 1.0]))
        tensor([3.5000, 1.0000])

    References:
        Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020, equation 4.
        https://arxiv.org/abs/2002.10179
    """
    return ranks
