"""Structures: which entries of a tensor are masked together, the *units* that criteria rank.

A criterion scores entries, a unit's score is the mean of its entries' scores; so units of different size
compare. Names are "unstructured", "row", "structured" (with `dim`), sizes of blocks such as "1x4", and N:M
such as "2:4" (n of each m consecutive inputs stay).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.errors import RequestError
from secateur.registry import Registry


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one tensor.

    Attributes:
        name: The tensor.
        scores: One for each unit; larger means keep.
        alive: Which units are not wholly masked yet.
        entries: How many entries a unit has.
        shape: The tensor's shape.
        must_keep_one: The tensor would cut the network if its last unit went, so that stays.
    """

    name: str
    scores: Float[Tensor, " units"]
    alive: Bool[Tensor, " units"]
    entries: int
    shape: tuple[int, ...]
    must_keep_one: bool = False

    def lowest(self, count: int) -> Bool[Tensor, " units"]:
        """What stays alive without the `count` alive units of the lowest scores."""
        keep = self.alive.clone()
        if count > 0:
            alive = self.alive.nonzero().flatten()
            keep[alive[torch.topk(self.scores[alive], count, largest=False).indices]] = False
        return keep


class Structure:
    """How the entries of a tensor belong together; here every entry is by itself.

    Example:
        >>> scores = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
        >>> units = Structure().units("w", scores, torch.ones(2, 2))
        >>> Structure().spread(units.lowest(2), (2, 2)).int().tolist()
        [[1, 0], [0, 1]]
    """

    rank = 1
    """How many dims a tensor must have at least."""

    group = 0
    """How many consecutive inputs compare, where the structure itself says how many stay, as 2:4 does."""

    must_keep_one = False
    """Whether a tensor without any unit would cut the network."""

    @property
    def is_fixed(self) -> bool:
        """Whether the structure itself says how much is masked."""
        return self.group > 0

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Say why a tensor cannot have this structure; None if it can."""
        return None if len(shape) >= self.rank else f"it has {len(shape)} dims, {self.rank} are needed"

    def rows(self, tensor: Tensor) -> Float[Tensor, "units entries"]:
        """Show a tensor with one row for each unit; what fills rows up is zero."""
        return tensor.reshape(-1, 1)

    def units(self, name: str, scores: Tensor, mask: Tensor) -> Units:
        """Group the scores of a tensor's entries.

        Args:
            name: The tensor.
            scores: One for each entry, in the tensor's shape.
            mask: The mask so far.
        """
        rows = self.rows(scores)
        entries = rows.shape[1]
        means = rows.flatten()
        if entries > 1:
            means = rows.double().sum(1) / self.rows(torch.ones_like(scores)).sum(1)
        alive = (self.rows(mask) != 0).any(1)
        return Units(name, means, alive, entries, tuple(scores.shape), self.must_keep_one)

    def spread(self, keep: Bool[Tensor, " units"], shape: tuple[int, ...]) -> Bool[Tensor, "..."]:
        """Say of each entry whether its unit stays."""
        return keep.view(shape)


Make: TypeAlias = Callable[[re.Match[str], int], Structure]

structures: Registry[Make] = Registry("structure", "secateur.mask.structures")
"""By the pattern of its word: what makes the structure from the match and `dim`."""


def read_structure(word: str, dim: int = 0) -> Structure:
    """Make a structure from its word.

    Args:
        word: "unstructured", "row", "structured", "16x16", "2:4".
        dim: Which dim holds the channels of "structured".

    Raises:
        RequestError: No structure is called so, or its sizes make no sense.

    Example:
        >>> type(read_structure("2:4")).__name__, type(read_structure("16x16")).__name__
        ('NOfM', 'BlockStructure')
        >>> read_structure("diagonal")
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: unknown structure 'diagonal'
          known: unstructured, structured, row, blocks such as 1x4 or 16x16, n:m such as 2:4 or 4:8
          choose one of them
    """
    for pattern, make in structures.items():
        match = re.fullmatch(pattern, word)
        if match:
            return make(match, dim)
    raise RequestError(
        f"unknown structure '{word}'",
        ["known: unstructured, structured, row, blocks such as 1x4 or 16x16, n:m such as 2:4 or 4:8"],
        "choose one of them",
    )
