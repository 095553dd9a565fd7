"""Criteria of masks: a score for every entry of a tensor; larger means keep.

Those of `torch.nn.utils.prune` (`l1`, `ln`, `random`) need the weights alone. The others look at data: at the
norms of a layer's inputs, or at gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from secateur.registry import Registry


@dataclass(frozen=True)
class Criterion:
    """How entries are scored.

    Attributes:
        score: From a masked weight and what was gathered about it to a score for each entry.
        needs: "" for the weight alone, "inputs" for the norms of the layer's inputs (in the weight's shape),
            "gradients" for what `gather` made of gradients (in the weight's shape).
        gather: Makes of a weight and its gradient on one batch what is summed over the batches.
        structure: Which structure the authors used.
    """

    score: Callable[[Tensor, Tensor | None], Tensor]
    needs: str = ""
    gather: Callable[[Tensor, Tensor], Tensor] | None = None
    structure: str = "unstructured"


def gathered(weight: Tensor, evidence: Tensor | None) -> Tensor:
    """Score by what was gathered, as it is."""
    assert evidence is not None, "the criterion says what it needs"
    return evidence


criteria: Registry[Criterion] = Registry("mask criterion", "secateur.mask.criteria")
