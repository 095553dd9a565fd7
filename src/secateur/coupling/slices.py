"""Slices: which entries of which parameters go with each channel of a group, each counted once.

A channel is a row of a convolution's weight, an entry of its bias, of a batch norm's scale and shift, and the
columns of whatever reads it. Where rows and columns of one weight belong to the same group (a layer that adds
to the stream it reads), W[c, c] lies in both. So what slices of one parameter have in common is counted with
a sign, by inclusion and exclusion:

    sum over the entries of channel c  =  sum over sets of its slices  (-1)^(n + 1) * sum over what n share
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from secateur.coupling.groups import Group
from secateur.graph.keep import DimPlaces


@dataclass(frozen=True, eq=False)
class Slice:
    """Where a group's channels lie in one dim of a tensor.

    Attributes:
        dim: Which dim.
        size: The size of that dim.
        places: Where in it each channel lies.
    """

    dim: int
    size: int
    places: Int64[Tensor, "channels each"]


@dataclass(frozen=True, eq=False)
class Share:
    """What some slices of one tensor have in common: one slice whole, or where several meet.

    Attributes:
        slices: By different dims.
    """

    slices: tuple[Slice, ...]

    @property
    def sign(self) -> int:
        """How it counts: 1 for a slice, -1 where two meet, as both have counted it, and so on."""
        return 1 if len(self.slices) % 2 else -1

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims that the slices lie in, from the first to the last."""
        return tuple(sorted(one.dim for one in self.slices))

    def entries(self, shape: Sequence[int]) -> int:
        """How many entries of a tensor of this shape it holds of each channel, with the sign."""
        number = self.sign
        held = {one.dim: one.places.shape[1] for one in self.slices}
        for dim, size in enumerate(shape):
            number *= held.get(dim, size)
        return number

    def sum(self, values: Tensor) -> Float[Tensor, " channels"]:
        """Sum a tensor over the entries of each channel, with the sign.

        Args:
            values: One for each entry.
        """
        others = [dim for dim in range(values.ndim) if dim not in self.dims]
        return self.sum_each((values.sum(others) if others else values)[None])[0]

    def sum_each(self, values: Tensor) -> Float[Tensor, "rows channels"]:
        """As `sum`, for many tensors that are already summed over the dims in which no slice lies.

        Args:
            values: [rows, sizes of `dims`].
        """
        if self._is_dim:
            return values
        order = [1 + self.dims.index(one.dim) for one in self.slices]
        index: Any = (slice(None), *self._index(values.device))
        return self.sign * values.permute(0, *order)[index].flatten(2).sum(2)

    def spread(self, numbers: Float[Tensor, " channels"], rank: int) -> Tensor:
        """Put each channel's number on its entries, with the sign, and zero elsewhere.

        Args:
            numbers: One for each channel.
            rank: Of the tensor.

        Returns:
            What broadcasts over the tensor.
        """
        if self._is_dim:
            return numbers.view([-1 if dim == self.slices[0].dim else 1 for dim in range(rank)])
        index = self._index(numbers.device)
        repeated = (self.sign * numbers).view(-1, *[1] * len(self.slices))
        repeated = repeated.expand(torch.broadcast_shapes(*(at.shape for at in index)))
        over = numbers.new_zeros([one.size for one in self.slices])
        over = over.index_put(index, repeated, accumulate=True)
        over = over.permute(sorted(range(len(self.slices)), key=lambda at: self.slices[at].dim))
        sizes = {one.dim: one.size for one in self.slices}
        return over.reshape([sizes.get(dim, 1) for dim in range(rank)])

    @cached_property
    def _is_dim(self) -> bool:
        """Whether the channels are the positions of one dim, as they mostly are."""
        first = self.slices[0]
        if len(self.slices) != 1 or len(first.places) != first.size:
            return False
        return bool((first.places[:, 0] == torch.arange(first.size, device="cpu")).all())

    def _index(self, device: torch.device) -> tuple[Tensor, ...]:
        """Into the dims of the slices: (channels, places in the first, places in the second, ...)."""
        rank = len(self.slices)
        return tuple(
            one.places.to(device).view(len(one.places), *(-1 if at == other else 1 for other in range(rank)))
            for at, one in enumerate(self.slices)
        )


def shares_of(slices: Sequence[Slice]) -> Iterator[Share]:
    """All that slices of one tensor have in common; together their entries count each once.

    Example:
        >>> each = torch.arange(3).view(3, 1)
        >>> rows, columns = Slice(0, 3, each), Slice(1, 3, each)
        >>> sum(share.sum(torch.ones(3, 3)) for share in shares_of([rows, columns]))
        tensor([5., 5., 5.])
    """
    for count in range(1, len(slices) + 1):
        yield from map(Share, combinations(slices, count))


def shares_in(group: Group, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Share, ...]]:
    """Find the entries that go with the channels of a group.

    Args:
        group: The group.
        tensors: Where to look, by name. Of one that has two names the group's first one counts.

    Returns:
        The shares of each tensor that holds channels.
    """
    slices: dict[str, list[Slice]] = {}
    first: dict[int, str] = {}
    for member in group.members:
        tensor = tensors.get(member.tensor)
        # A second dim of a tensor already seen counts; a second name of it does not.
        if tensor is None or first.setdefault(id(tensor), member.tensor) != member.tensor:
            continue
        places = torch.from_numpy(DimPlaces(member.expr).of(group.axis))
        slices.setdefault(member.tensor, []).append(Slice(member.dim, tensor.shape[member.dim], places))
    return {name: tuple(shares_of(found)) for name, found in slices.items()}
