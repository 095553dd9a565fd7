"""Coupled slices: all that goes with a channel, as a penalty needs it at every step.

`secateur.coupling.slices` says which entries; here they are tied to the parameters themselves, which the
training loop can copy along with the model and use without the groups.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.coupling import Groups
from secateur.coupling.slices import Share, shares_in
from secateur.errors import RequestError


@dataclass(frozen=True, eq=False)
class GroupSlices:
    """The channels of one prunable group with all that goes with them.

    Attributes:
        name: The group.
        size: How many channels.
        shares: Every parameter that holds them, and which of its entries.
    """

    name: str
    size: int
    shares: tuple[tuple[nn.Parameter, tuple[Share, ...]], ...]

    @property
    def entries(self) -> int:
        """How many numbers go with each channel."""
        return sum(share.entries(held.shape) for held, shares in self.shares for share in shares)

    @property
    def weight(self) -> float:
        """The root of the number of entries of a channel, so that wide and narrow groups are pulled alike."""
        return sqrt(self.entries)

    def squares(self) -> Float[Tensor, " channels"]:
        """Sum the squares of the numbers that go with each channel, in single precision or better."""
        total: Tensor | None = None
        for parameter, shares in self.shares:
            squared = wide(parameter).square()
            for share in shares:
                found = share.sum(squared)
                total = found if total is None else total + found
        assert total is not None, "a group without parameters has no channels"
        return total

    def pull(self, factors: Float[Tensor, " channels"]) -> None:
        """Add `factor * value` to the gradient of every number, by the factor of its channel."""
        for parameter, shares in self.shares:
            values = wide(parameter)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pulls = [share.spread(factors.to(values), values.ndim) for share in shares]
            parameter.grad.addcmul_(values, sum(pulls[1:], pulls[0]))


def coupled_slices(
    model: nn.Module, groups: Groups, only: Collection[str] | None = None
) -> tuple[GroupSlices, ...]:
    """List the channels of the prunable groups with all their slices.

    Args:
        model: The model that the groups belong to.
        groups: Its groups.
        only: Names of those that are wanted; None for all.

    Returns:
        One entry for each prunable group that has parameters, in the order of the network.

    Raises:
        RequestError: No group can be cut, or a parameter of one is frozen.

    Example:
        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> for channels in coupled_slices(net, sc.couple(net, torch.zeros(1, 4))):
        ...     print(channels.name, channels.size, channels.entries)
        0 8 7
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    found: list[GroupSlices] = []
    for group in groups.prunable:
        shares = tuple((named[name], shares) for name, shares in shares_in(group, named).items())
        if shares:
            found.append(GroupSlices(group.name, group.size, shares))
    if not found:
        raise RequestError(
            "a penalty has nothing to act on: no group of the model can be cut",
            [f"{group.name}: {group.reason}" for group in groups if group.reason],
            "protect less, or train without a penalty",
        )
    found = [channels for channels in found if only is None or channels.name in only]
    for channels in found:
        for parameter, _ in channels.shares:
            if not parameter.requires_grad:
                name = next(name for name, held in named.items() if held is parameter)
                raise RequestError(
                    f"{name} of group {channels.name} is frozen, a penalty on the group would not reach it",
                    do="set requires_grad, or protect the group",
                )
    return tuple(found)


def wide(tensor: Tensor) -> Tensor:
    """The values in single precision or better: squares of half precision overflow at 256."""
    values = tensor.detach()
    return values if values.element_size() >= 4 else values.float()


def distinct(channels: Sequence[GroupSlices]) -> tuple[nn.Parameter, ...]:
    """List the parameters of some groups, each once, in the order of the network."""
    held = {id(parameter): parameter for group in channels for parameter, _ in group.shares}
    return tuple(held.values())


def require_strength(penalty: str, strength: float) -> None:
    """Refuse a strength below zero, and what is no number.

    Raises:
        RequestError: The strength makes no sense.
    """
    if not 0 <= strength < float("inf"):
        raise RequestError(
            f"the strength of {penalty} is {strength:g}",
            ["allowed: 0 or more"],
            "pass a strength such as 1e-3",
        )
