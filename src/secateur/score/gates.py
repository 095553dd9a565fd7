"""Gates: which entries of which parameters go with each channel of each group.

Imagine a gate m_c = 1 on every channel c, multiplied into all its coupled slices. The derivative of the loss
by the gate is the sum over them of weight times gradient:

    dL/dm_c = sum over members, over entries p of slice c, of  w_p dL/dw_p
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.couple import Group
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

    def sum_of(self, entries: Tensor) -> Float[Tensor, " channels"]:
        """Sum entries of the parameter's shape over each channel's slice."""
        moved = entries.movedim(self.dim, 0).flatten(1) if entries.ndim > 1 else entries[:, None]
        return moved.sum(1).index_select(0, self.places.reshape(-1)).view(self.places.shape).sum(1)

    def spread(self, gates: Float[Tensor, " channels"], rank: int) -> Tensor:
        """Put each channel's number on its slice, in a shape that broadcasts over the parameter."""
        over = gates.new_zeros(self.size)
        repeated = gates[:, None].expand(self.places.shape).reshape(-1)
        over = over.index_add(0, self.places.reshape(-1), repeated)
        return over.view([-1 if at == self.dim else 1 for at in range(rank)])


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
        """Find the slices of groups; of tied parameters one name counts, all its dims do."""
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
                if tensor is None or seen.setdefault(id(tensor), member.tensor) != member.tensor:
                    continue
                places = torch.from_numpy(Places(member.expr).of(group.axis)).to(tensor.device)
                held.append(Slices(first[id(tensor)], member.dim, tensor.shape[member.dim], places))
        return cls(sizes, slices)

    def sums(self, entries: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " channels"]]:
        """Sum entries, one for each parameter's entry, over all coupled slices of each channel."""
        return {
            name: torch.stack([held.sum_of(entries[held.parameter]) for held in slices]).sum(0)
            for name, slices in self.slices.items()
            if slices
        }

    def spread(
        self, gates: Mapping[str, Float[Tensor, " channels"]], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """For each parameter how far its entries move, relative to themselves, when gates move."""
        moved: dict[str, Tensor] = {}
        for name, slices in self.slices.items():
            for held in slices:
                parameter = like[held.parameter]
                step = held.spread(gates[name].to(parameter), parameter.ndim)
                moved[held.parameter] = moved[held.parameter] + step if held.parameter in moved else step
        return moved
