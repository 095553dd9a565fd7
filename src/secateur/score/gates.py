"""Gates: how the loss depends on whole channels.

Imagine a gate m_c = 1 on every channel c, multiplied into all its coupled slices. The derivative of the loss
by the gate is the sum over them of weight times gradient:

    dL/dm_c = sum over all entries p in a slice of channel c of  w_p dL/dw_p
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.coupling import Group
from secateur.coupling.slices import Share, shares_in


@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of some groups.

    Attributes:
        sizes: Channels by group name.
        shares: What goes with the channels, by group name: parameters by their first names, and which of
            their entries.
    """

    sizes: Mapping[str, int]
    shares: Mapping[str, Sequence[tuple[str, Share]]]

    @classmethod
    def of(cls, model: nn.Module, groups: Iterable[Group]) -> "Gates":
        """Find the slices of groups in parameters; of tied ones one name counts, all its dims do."""
        first = {id(tensor): name for name, tensor in model.named_parameters()}
        named = dict(model.named_parameters(remove_duplicate=False))
        real = {name: held for name, held in named.items() if held.is_floating_point() or held.is_complex()}
        groups = list(groups)
        shares = {
            group.name: [
                (first[id(real[name])], share)
                for name, found in shares_in(group, real).items()
                for share in found
            ]
            for group in groups
        }
        return cls({group.name: group.size for group in groups}, shares)

    def sums(self, entries: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " channels"]]:
        """Sum entries, one for each parameter's entry, over all that goes with each channel, each once."""
        return {
            name: torch.stack([share.sum(entries[at]) for at, share in shares]).sum(0)
            for name, shares in self.shares.items()
            if shares
        }

    def within(self, names: Collection[str]) -> "Gates":
        """What the slices in some parameters make of the gates."""
        held = {
            group: [(at, share) for at, share in shares if at in names]
            for group, shares in self.shares.items()
        }
        return Gates(self.sizes, held)

    def margins(self) -> dict[str, set[tuple[int, ...]]]:
        """Of each parameter the dims that slices lie in; `sums` are made of sums over all others."""
        found: dict[str, set[tuple[int, ...]]] = {}
        for shares in self.shares.values():
            for at, share in shares:
                found.setdefault(at, set()).add(share.dims)
        return found

    def sums_of_margins(
        self, margins: Mapping[str, Mapping[tuple[int, ...], Tensor]]
    ) -> dict[str, Float[Tensor, "samples channels"]]:
        """As `sums`, of entries that are already summed over the dims in which no slice lies.

        Args:
            margins: By parameter and by dims, a row for each sample: [samples, sizes of those dims]. What is
                missing is zero.
        """
        return {
            name: torch.stack([share.sum_each(margins[at][share.dims]) for at, share in found]).sum(0)
            for name, shares in self.shares.items()
            if (found := [(at, share) for at, share in shares if share.dims in margins.get(at, {})])
        }

    def spread(
        self, gates: Mapping[str, Float[Tensor, " channels"]], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """For each parameter how far its entries move, relative to themselves, when gates move."""
        moved: dict[str, Tensor] = {}
        for name, shares in self.shares.items():
            for at, share in shares:
                step = share.spread(gates[name].to(like[at]), like[at].ndim)
                moved[at] = moved[at] + step if at in moved else step
        return moved
