"""Score channels by the Ln norm of their weights:  s_c = (sum_j |w_cj|^n)^(1/n)."""

from jaxtyping import Float
from torch import Tensor

from secateur.errors import RequestError
from secateur.score.criterion import criterion


@criterion("ln", of="weights", normalise="mean", is_by_row=True)
def ln(weight: Float[Tensor, "channels rest"], *, n: float = 4.0) -> Float[Tensor, " channels"]:
    """Take the norm of any order of the weights of each channel.

    Larger scores mean: keep. Below 1 many small weights count, above 2 the few large ones.

    Args:
        weight: One row for each channel, in the units of the layer.
        n: The order, above 0; may be infinite.

    Returns:
        One score for each channel, at least 0, in the units of the layer.

    Raises:
        RequestError: n is not above 0.

    Example:
        >>> import torch
        >>> ln(torch.tensor([[3.0, -4.0], [0.0, 1.0]]), n=float("inf"))
        tensor([4., 1.])

    References:
        Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, section 3 (n = 2);
        `torch.nn.utils.prune.ln_structured` takes any n. https://arxiv.org/abs/1608.03665
    """
    if not n > 0:
        raise RequestError(f"n of criterion ln is {n}", do="choose n > 0")
    return weight.norm(p=n, dim=1)
