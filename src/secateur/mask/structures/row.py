"""Every entry by itself, but compared within its output row only.

An entry's score is replaced by its rank in its row, from 0 to 1, so every row loses the same share whatever
its scale. Wanda prunes so (Sun et al., section 3: "per-output" comparison groups).

References:
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, section 3.
    https://arxiv.org/abs/2306.11695
"""

from torch import Tensor

from secateur.mask.structure import Structure, Units, structures


class Row(Structure):
    """Entries that compare within their row, the first dim.

    Example:
        >>> import torch
        >>> units = Row().units("w", torch.tensor([[1.0, 2.0], [30.0, 10.0]]), torch.ones(2, 2))
        >>> Row().spread(units.lowest(2), (2, 2)).int().tolist()
        [[0, 1], [1, 0]]
    """

    rank = 2

    def units(self, name: str, scores: Tensor, mask: Tensor) -> Units:
        """One unit for each entry, scored by its rank among the unmasked entries of its row."""
        alive = mask.flatten(1) != 0
        rows = scores.flatten(1).double().masked_fill(~alive, float("inf"))
        ranks = rows.argsort(dim=1, stable=True).argsort(1).double()
        return super().units(name, (ranks / alive.sum(1, keepdim=True).clamp(min=1)).view_as(mask), mask)


structures.add("row", lambda match, dim: Row())
structures.add("unstructured", lambda match, dim: Structure())
