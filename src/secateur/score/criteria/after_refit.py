"""Score channels by the error left after the refit:  s_c = e(k) - e(k - 1), where c is the k-th to go."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.score.criterion import criterion
from secateur.score.elimination import Consumer, eliminate


@criterion("after-refit", of="consumers", normalise="none")
def after_refit(consumers: Sequence[Consumer]) -> Float[Tensor, " channels"]:
    """Take what the removal of each channel costs the layers that read it, once they are solved anew.

    Larger scores mean: keep. Channels leave a group one round after the other, those first that the others
    can best stand in for (`score/elimination.py`). A channel's score is what the model's outputs lose when it
    goes, to second order, as a share of their variance (`score/sensitivity.py`), and never less than that of
    one that went before it: the lowest scores of all groups are the cheapest set of removals. `obs` is its
    relative: that asks the loss, this the layers that read. To be used with the recovery step `refit`.

    Args:
        consumers: The layers that read the group, with the second moments of their inputs.

    Returns:
        One score for each channel, from 0.

    Example:
        >>> from secateur.score.elimination import InputMoments
        >>> twins = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.1, 0.0], [0.0, 0.0, 4.0]]).double()
        >>> [round(score, 2) for score in after_refit(
        ...     [Consumer(InputMoments(twins.T @ twins), torch.ones(3, 1), torch.arange(3)[:, None])]
        ... ).tolist()]
        [0.0, 0.57, 0.43]

    References:
        As of `score/elimination.py`.
    """
    found = eliminate(consumers)
    scores = torch.empty(len(found.order), dtype=torch.float64, device=found.order.device)
    scores[found.order] = found.errors.diff().clamp_min(0).cummax(0).values
    return scores
