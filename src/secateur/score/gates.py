"""Gates: which entries of which parameters go with each channel of each group.

Imagine a gate m_c = 1 on every channel c, multiplied into all its coupled slices. The derivative of the loss
by the gate is the sum over them of weight times gradient:

    dL/dm_c = sum over all entries p in a slice of channel c of  w_p dL/dw_p

where an entry in two slices of a channel (w_cc of a layer that adds to the stream it reads) counts once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.coupling import Group
from secateur.graph.keep import Places


@dataclass(frozen=True, eq=False)
class Slices:
    """Where a group's channels lie in one parameter.

    Attributes:
        parameter: The parameter's first name.
        dim: Which dim.
        size: The size of that dim.
        places: Where each channel lies in it, shape (channels, places).
    """

    parameter: str
    dim: int
    size: int
    places: Tensor


Together = tuple[Slices, ...]
"""Slices of one group in different dims of one parameter; alone, or where they meet."""


def _sum_of(entries: Tensor, together: Together) -> Float[Tensor, " channels"]:
    """Sum entries of the parameter's shape over what each channel's slices have in common."""
    rank = len(together)
    moved = entries.movedim([held.dim for held in together], list(range(rank)))
    summed = moved.flatten(rank).sum(-1) if moved.ndim > rank else moved
    return summed[_places(together)].flatten(1).sum(1)


def _spread(gates: Float[Tensor, " channels"], together: Together, rank: int) -> Tensor:
    """Put each channel's number on what its slices have in common, to broadcast over the parameter."""
    over = gates.new_zeros([held.size for held in together])
    index = _places(together)
    repeated = gates.view(-1, *[1] * len(together)).expand(
        torch.broadcast_shapes(*(at.shape for at in index))
    )
    over = over.index_put(index, repeated, accumulate=True)
    over = over.permute(sorted(range(len(together)), key=lambda at: together[at].dim))
    sizes = {held.dim: held.size for held in together}
    return over.reshape([sizes.get(at, 1) for at in range(rank)])


def _places(together: Together) -> tuple[Tensor, ...]:
    """Indices of dims (channels, places in the first dim, places in the second, ...)."""
    rank = len(together)
    return tuple(
        held.places.view(len(held.places), *(-1 if other == at else 1 for other in range(rank)))
        for at, held in enumerate(together)
    )


def _once(slices: Sequence[Slices]) -> Iterator[tuple[Together, int]]:
    """Inclusion and exclusion: with these signs, an entry in several slices of a channel counts once."""
    shared: dict[str, list[Slices]] = {}
    for held in slices:
        shared.setdefault(held.parameter, []).append(held)
    for alike in shared.values():
        for count in range(1, len(alike) + 1):
            yield from ((together, (-1) ** (count + 1)) for together in combinations(alike, count))


@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of some groups.

    Attributes:
        sizes: Channels by group name.
        slices: The coupled slices by group name.
    """

    sizes: Mapping[str, int]
    slices: Mapping[str, Sequence[Slices]]

    @classmethod
    def of(cls, model: nn.Module, groups: Iterable[Group]) -> "Gates":
        """Find the slices of groups in real parameters; of tied ones one name counts, all its dims do."""
        first = {id(tensor): name for name, tensor in model.named_parameters()}
        named = dict(model.named_parameters(remove_duplicate=False))
        sizes: dict[str, int] = {}
        slices: dict[str, list[Slices]] = {}
        for group in groups:
            sizes[group.name] = group.size
            held = slices[group.name] = []
            seen: dict[int, str] = {}
            for member in group.members:
                tensor = named.get(member.tensor)
                if tensor is None or not tensor.is_floating_point():
                    continue
                if seen.setdefault(id(tensor), member.tensor) != member.tensor:
                    continue
                places = torch.from_numpy(Places(member.expr).of(group.axis)).to(tensor.device)
                held.append(Slices(first[id(tensor)], member.dim, tensor.shape[member.dim], places))
        return cls(sizes, slices)

    def sums(self, entries: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " channels"]]:
        """Sum entries, one for each parameter's entry, over all that goes with each channel, each once."""
        return {
            name: torch.stack(
                [sign * _sum_of(entries[together[0].parameter], together) for together, sign in _once(slices)]
            ).sum(0)
            for name, slices in self.slices.items()
            if slices
        }

    def spread(
        self, gates: Mapping[str, Float[Tensor, " channels"]], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """For each parameter how far its entries move, relative to themselves, when gates move."""
        moved: dict[str, Tensor] = {}
        for name, slices in self.slices.items():
            for together, sign in _once(slices):
                at = together[0].parameter
                step = sign * _spread(gates[name].to(like[at]), together, like[at].ndim)
                moved[at] = moved[at] + step if at in moved else step
        return moved
