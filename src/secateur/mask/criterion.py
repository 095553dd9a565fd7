"""Criteria of masks: a score for every entry of a tensor; larger means keep.

Those of `secateur.score` see channels. Here each entry is by itself, so a formula of one weight is enough;
what it looks at besides is read by the parts that those criteria use (`evidence.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from secateur.registry import Registry


@dataclass(frozen=True)
class MaskCriterion:
    """How entries are scored.

    Attributes:
        formula: From a masked weight, and what it looks at besides, to a score for each entry.
        of: What that is: "weights" for nothing, "inputs" for the norms of the layer's inputs, "gradients" for
            the gradient on one batch; the scores of batches are summed.
        structure: Which structure the authors used.
    """

    formula: Callable[..., Tensor]
    of: str = "weights"
    structure: str = "unstructured"


criteria: Registry[MaskCriterion] = Registry("mask criterion", "secateur.mask.criteria")


def criterion(
    name: str, of: str = "weights", structure: str = "unstructured"
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a formula under the word that users choose it by; see `MaskCriterion`."""

    def register(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
        criteria.add(name, MaskCriterion(formula, of, structure))
        return formula

    return register
