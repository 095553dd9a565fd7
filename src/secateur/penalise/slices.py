"""Coupled slices: all that goes with a channel, as a penalty needs it at every step.

A channel is a row of a convolution's weight, an entry of its bias, of a batch norm's scale and shift, and the
columns of whatever reads it. `couple` says where; here that is written down once as parameters, dims and
positions, which the training loop can copy along with the model and use without the groups.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from secateur.coupling import Group, Groups
from secateur.errors import RequestError
from secateur.graph.keep import Places


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of one parameter that a group's channels share out.

    Attributes:
        parameter: The parameter.
        dim: The dim that holds the channels.
        places: Where in it each channel lies, one row for each; None where position and channel are one.
    """

    parameter: nn.Parameter
    dim: int
    places: Int64[Tensor, "channels each"] | None

    @property
    def entries(self) -> int:
        """How many numbers go with each channel."""
        across = self.parameter.numel() // max(self.parameter.shape[self.dim], 1)
        return across if self.places is None else across * self.places.shape[1]

    @property
    def indices(self) -> Int64[Tensor, "channels each"]:
        """Where in the dim each channel lies, on the parameter's device."""
        places = self.places
        if places is None:
            places = torch.arange(self.parameter.shape[self.dim]).unsqueeze(1)
        return places.to(self.parameter.device)

    def squares(self) -> Float[Tensor, " channels"]:
        """Sum the squares of the numbers that go with each channel, in single precision or better."""
        others = [dim for dim in range(self.parameter.ndim) if dim != self.dim]
        squared = wide(self.parameter).square()
        summed = squared.sum(others) if others else squared
        return summed if self.places is None else summed[self.indices].sum(1)

    def pull(self, factors: Float[Tensor, " channels"]) -> None:
        """Add `factor * value` to the gradient of every number, by the factor of its channel."""
        parameter = self.parameter
        if self.places is not None:
            spread = factors.new_zeros(parameter.shape[self.dim])
            each = self.places.shape[1]
            factors = spread.index_add_(
                0, self.places.to(factors.device).flatten(), factors.repeat_interleave(each)
            )
        shape = [1] * parameter.ndim
        shape[self.dim] = -1
        values = wide(parameter)
        _gradient(parameter).addcmul_(values, factors.view(shape).to(values.dtype))


@dataclass(frozen=True, eq=False)
class Overlap:
    """What slices of one parameter share: W[c, c] lies in row c and in column c of a square weight.

    Two slices count it twice, so it is taken off; what three share is added again, and so on (inclusion and
    exclusion). Then each number of a channel counts once.

    Attributes:
        slices: Slices of the same parameter and channels, by different dims.
    """

    slices: tuple[Slice, ...]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter of all of them."""
        return self.slices[0].parameter

    @property
    def sign(self) -> int:
        """Whether it is taken off, -1, or added again, 1."""
        return -1 if len(self.slices) % 2 == 0 else 1

    @property
    def entries(self) -> int:
        """How many numbers of each channel are shared, with the sign."""
        return self.sign * self._grid(self.parameter)[self._index].flatten(1).shape[1]

    def squares(self) -> Float[Tensor, " channels"]:
        """Sum the squares of these numbers, with the sign."""
        return self.sign * self._grid(wide(self.parameter))[self._index].square().flatten(1).sum(1)

    def pull(self, factors: Float[Tensor, " channels"]) -> None:
        """Add `sign * factor * value` to their gradient."""
        values = self._grid(wide(self.parameter))[self._index]
        shaped = factors.view(-1, *[1] * (values.ndim - 1)).to(values.dtype)
        gradient = self._grid(_gradient(self.parameter))
        gradient[self._index] += (self.sign * values * shaped).to(gradient.dtype)

    def _grid(self, tensor: Tensor) -> Tensor:
        """The tensor with the dims of the channels first."""
        return tensor.detach().movedim([held.dim for held in self.slices], list(range(len(self.slices))))

    @property
    def _index(self) -> tuple[Tensor, ...]:
        """Into these dims: for each channel every pair of its positions."""
        shape = [1] * len(self.slices)
        return tuple(
            held.indices.view(-1, *shape[:at], held.indices.shape[1], *shape[at + 1 :])
            for at, held in enumerate(self.slices)
        )


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one prunable group with all their slices.

    Attributes:
        name: The group.
        size: How many channels.
        slices: Every parameter that holds them, once for each dim that does, and what these share.
    """

    name: str
    size: int
    slices: tuple[Slice | Overlap, ...]

    @property
    def weight(self) -> float:
        """The root of the number of entries of a channel, so that wide and narrow groups are pulled alike."""
        return sqrt(sum(held.entries for held in self.slices))

    def squares(self) -> Float[Tensor, " channels"]:
        """Sum the squares of each channel over all its slices."""
        total = self.slices[0].squares()
        for held in self.slices[1:]:
            total = total + held.squares()
        return total

    def pull(self, factors: Float[Tensor, " channels"]) -> None:
        """Add `factor * value` to the gradients of all slices."""
        for held in self.slices:
            held.pull(factors)


def coupled_slices(
    model: nn.Module, groups: Groups, only: Collection[str] | None = None
) -> tuple[Channels, ...]:
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
        ...     print(channels.name, channels.size, [held.entries for held in channels.slices])
        0 8 [4, 1, 2]
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    found = [Channels(group.name, group.size, _slices(group, named)) for group in groups.prunable]
    found = [channels for channels in found if channels.slices]
    if not found:
        raise RequestError(
            "a penalty has nothing to act on: no group of the model can be cut",
            [f"{group.name}: {group.reason}" for group in groups if group.reason],
            "protect less, or train without a penalty",
        )
    found = [channels for channels in found if only is None or channels.name in only]
    for channels in found:
        for held in channels.slices:
            if not held.parameter.requires_grad:
                name = next(name for name, parameter in named.items() if parameter is held.parameter)
                raise RequestError(
                    f"{name} of group {channels.name} is frozen, a penalty on the group would not reach it",
                    do="set requires_grad, or protect the group",
                )
    return tuple(found)


def _slices(group: Group, named: dict[str, nn.Parameter]) -> tuple[Slice | Overlap, ...]:
    slices: list[Slice] = []
    first_name: dict[int, str] = {}
    for member in group.members:
        parameter = named.get(member.tensor)
        # A second dim of a parameter already seen counts; a second name of it does not.
        if parameter is None or first_name.setdefault(id(parameter), member.tensor) != member.tensor:
            continue
        places = Places(member.expr)
        index = None if places.axis is group.axis else torch.from_numpy(places.of(group.axis))
        slices.append(Slice(parameter, member.dim, index))
    return (*slices, *_overlaps(slices))


def _overlaps(slices: Sequence[Slice]) -> Iterator[Overlap]:
    by_parameter: dict[int, list[Slice]] = {}
    for held in slices:
        by_parameter.setdefault(id(held.parameter), []).append(held)
    for several in by_parameter.values():
        for count in range(2, len(several) + 1):
            yield from map(Overlap, combinations(several, count))


def wide(tensor: Tensor) -> Tensor:
    """The values in single precision or better: squares of half precision overflow at 256."""
    values = tensor.detach()
    return values if values.element_size() >= 4 else values.float()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def distinct(channels: Sequence[Channels]) -> tuple[nn.Parameter, ...]:
    """List the parameters of some groups, each once, in the order of the network."""
    held = {id(one.parameter): one.parameter for group in channels for one in group.slices}
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
