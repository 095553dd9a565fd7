"""Score channels by the optimal brain surgeon on gates:  s_c = 1/2 / [F^-1]_cc,  F their Fisher matrix."""

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.view import Gradients

_DAMPING = 1e-3
"""Added to the diagonal, as a share of its mean: F has at most the rank of the number of samples."""


@criterion("obs", of="gradients", normalise="mean")
def obs(gradients: Gradients) -> Float[Tensor, " channels"]:
    """Take the second-order change of the loss when a channel goes and the others of its group adapt.

    Larger scores mean: keep. Every channel has a gate that is 1; closing one costs 1/2 / [F^-1]_cc after the
    other gates are set to the best they can be. A channel that another one can stand in for scores low, even
    if each by itself matters. Costs channels^3 for a group.

    Args:
        gradients: Those of the group's channels.

    Returns:
        One score for each channel, at least 0, in the squared units of the loss; 0 for a channel that no
        sample's loss depends on.

    Example:
        >>> from types import SimpleNamespace
        >>> same = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> [round(score, 3) for score in obs(SimpleNamespace(gram=same)).tolist()]
        [0.0, 0.0, 0.5]

    References:
        Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992,
        equation 5; the Fisher matrix for H as in Singh and Alistarh, "WoodFisher", NeurIPS 2020.
        https://arxiv.org/abs/2004.14340
    """
    gram = gradients.gram.double()
    size = gram.diagonal().mean()
    if not size > 0:
        return torch.zeros_like(gram.diagonal())
    # In units of the mean diagonal: gradients may be of any size.
    damped = gram / size + _DAMPING * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return 0.5 * size * (1 / inverse.diagonal() - _DAMPING).clamp_min(0)
