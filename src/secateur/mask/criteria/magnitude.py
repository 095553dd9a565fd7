"""Magnitude: small weights matter least; and chance, the baseline.

References:
    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
    section 3.1. https://arxiv.org/abs/1506.02626
"""

import torch
from torch import Tensor

from secateur.mask.criterion import MaskCriterion, criteria


def power(weight: Tensor, n: float | str = 2) -> Tensor:
    """What a weight adds to the n-norm of all, before the root; larger means keep.

    Example:
        >>> power(torch.tensor([-3.0, 2.0])).tolist()
        [9.0, 4.0]
    """
    return weight.abs() ** (2.0 if n == "fro" else float(n))


criteria.add("l1", MaskCriterion(torch.abs))
criteria.add("l2", MaskCriterion(power))
criteria.add("ln", MaskCriterion(power))
criteria.add("random", MaskCriterion(torch.rand_like))
