"""Wanda: a weight times the norm of the input it is multiplied with.

    score[o, i] = |W[o, i]| * ||X[:, i]||_2

References:
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, equation 1.
    https://arxiv.org/abs/2306.11695
"""

from torch import Tensor

from secateur.mask.criterion import criterion


@criterion("wanda", of="inputs", structure="row")
def wanda(weight: Tensor, norms: Tensor) -> Tensor:
    """Score each weight by what it adds to its output over the data.

    Example:
        >>> import torch
        >>> wanda(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 4.0]])).tolist()
        [[3.0, 4.0]]
    """
    return weight.abs() * norms
