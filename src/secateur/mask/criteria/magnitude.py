"""Magnitude: small weights matter least; and chance, the baseline.

References:
    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
    section 3.1. https://arxiv.org/abs/1506.02626
"""

import torch
from torch import Tensor

from secateur.mask.criterion import Criterion, criteria


def _absolute(weight: Tensor, evidence: Tensor | None) -> Tensor:
    return weight.abs()


def _square(weight: Tensor, evidence: Tensor | None) -> Tensor:
    return weight**2


def _chance(weight: Tensor, evidence: Tensor | None) -> Tensor:
    return torch.rand_like(weight)


criteria.add("l1", Criterion(_absolute))
criteria.add("l2", Criterion(_square))
criteria.add("random", Criterion(_chance))
