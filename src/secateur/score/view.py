"""What a criterion sees of a group: its tensors, one row for each channel.

Rows are read when they are asked for and held by nobody else. A group of a large language model has members
in every layer, so a criterion that goes through them one by one needs the memory of one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.coupling import Group, Member
from secateur.coupling.rule import is_norm_scale
from secateur.errors import RequestError, prefix_hint
from secateur.graph.axes import Expr
from secateur.graph.keep import DimPlaces
from secateur.score.elimination import Consumer
from secateur.score.moments import Moments


@dataclass(frozen=True, eq=False)
class MemberView:
    """One tensor of a group.

    Attributes:
        tensor: Qualified name.
        read: Makes its values, one row for each channel of the group.
        op: The operator that uses it first, "aten.conv2d".
        arg: As which argument, "weight".
        is_contracted: The operator sums over the channels: it reads them rather than makes them.
        rank: How many dims the tensor has.
    """

    tensor: str
    read: Callable[[], Float[Tensor, "channels rest"]] = field(repr=False)
    op: str
    arg: str
    is_contracted: bool
    rank: int

    @property
    def rows(self) -> Float[Tensor, "channels rest"]:
        """Its values, one row for each channel; read anew each time."""
        return self.read()

    @property
    def is_weight(self) -> bool:
        """Whether this is a weight matrix or kernel, not a bias, scale or statistic."""
        return self.rank > 1

    @property
    def is_norm_scale(self) -> bool:
        """Whether this is the scale of a batch or instance normalisation."""
        return is_norm_scale(self.op, self.arg)


class Gradients(Protocol):
    """What the data says of the gates m_c = 1 on a group's channels; a pass over it is made when first asked.

    A gate is multiplied into all coupled slices of its channel: dL/dm_c is the sum of weight times gradient
    over them (`score/gates.py`).
    """

    @property
    def mean(self) -> Float[Tensor, " channels"]:
        """dL/dm_c, the mean over all samples, signed."""

    @property
    def square(self) -> Float[Tensor, " channels"]:
        """(dL/dm_c)^2 of each sample, the mean over all."""

    @property
    def diagonal(self) -> Float[Tensor, " channels"]:
        """The sum over a channel's entries of (weight times gradient)^2, the mean over all samples."""

    @property
    def gram(self) -> Float[Tensor, "channels channels"]:
        """dL/dm_c dL/dm_d of each sample, the mean over all."""

    @property
    def curvature(self) -> Float[Tensor, " channels"]:
        """The second derivative of the loss along each channel's weights, estimated, signed."""


class Observed(Protocol):
    """What the data says of one group."""

    def evidence(self, kind: str) -> Sequence[Any]:
        """What one kind of evidence says, for each activation that holds the group's channels."""

    @property
    def consumers(self) -> Sequence[Consumer]:
        """The layers that read the group, with the second moments of their inputs."""

    @property
    def gradients(self) -> Gradients:
        """Gradients of the loss."""


@dataclass(frozen=True, eq=False)
class GroupView:
    """A group as a criterion sees it.

    Attributes:
        name: The group.
        size: Its channels.
        members: Its parameters, in the order of the network.
        seed: For criteria that draw.
        observed: What the data says of it; None without data.
    """

    name: str
    size: int
    members: tuple[MemberView, ...]
    seed: int = 0
    observed: Observed | None = field(default=None, repr=False)

    @property
    def data(self) -> Observed:
        """What the data says of the group.

        Raises:
            RequestError: There is no data.
        """
        if self.observed is None:
            raise RequestError(
                f"a criterion asks for activations or gradients of group {self.name}, there is no data",
                do="pass data= to secateur.prune or secateur.plan, or choose a criterion of weights",
            )
        return self.observed

    def evidence(self, kind: str) -> Sequence[Any]:
        """What data say of its activations, one item each, by the name of a module in `score/evidence/`."""
        return self.data.evidence(kind)

    @property
    def activations(self) -> Sequence[Moments]:
        """Statistics of its activations over all data; empty if nothing reads the group's channels."""
        return self.evidence("activations")

    @property
    def consumers(self) -> Sequence[Consumer]:
        """The layers that read the group's channels; empty if none does."""
        return self.data.consumers

    @property
    def gradients(self) -> Gradients:
        """Gradients of the loss over all data."""
        return self.data.gradients

    @property
    def weights(self) -> Sequence[Float[Tensor, "channels rest"]]:
        """The rows of every weight matrix and kernel, made and read; each is read when it is taken."""
        return _Rows([member for member in self.members if member.is_weight])

    @property
    def norm_scales(self) -> Sequence[Float[Tensor, "channels rest"]]:
        """The rows of every batch-norm scale; each is read when it is taken."""
        return _Rows([member for member in self.members if member.is_norm_scale])


class _Rows(Sequence[Tensor]):
    """The rows of some members, one after the other."""

    def __init__(self, members: Sequence[MemberView]) -> None:
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: Any) -> Any:
        found = self._members[index]
        return found.rows if isinstance(found, MemberView) else _Rows(found)


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters of a model by name, with the values that count.

    Make it with `Parameters.of`, once for all groups of a model.

    Attributes:
        held: The model's own, under all their names.
        stored: Values from elsewhere, such as the files of a checkpoint; None where the model's own count.
        names: All names of each tensor, by its id.
        places: Where axes lie in the dims that were asked for, by the dim's id.
    """

    held: Mapping[str, Tensor]
    stored: Mapping[str, Tensor] | None = None
    names: Mapping[int, Sequence[str]] = field(default_factory=dict, repr=False)
    places: dict[int, tuple[Expr, DimPlaces]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: nn.Module, stored: Mapping[str, Tensor] | None = None) -> "Parameters":
        """Gather the parameters of a model.

        Args:
            model: The model.
            stored: By name, the values that count; of tied parameters one name is enough. None: the model's.
        """
        held = dict(model.named_parameters(remove_duplicate=False))
        names: dict[int, list[str]] = {}
        for name, tensor in held.items():
            names.setdefault(id(tensor), []).append(name)
        return cls(held, stored, names)

    def places_in(self, dim: Expr) -> DimPlaces:
        """Where the axes of a dim lie; found out once."""
        found = self.places.get(id(dim))
        if found is None:
            found = self.places[id(dim)] = (dim, DimPlaces(dim))
        return found[1]

    def read(self, name: str) -> Tensor:
        """The values of a parameter.

        Raises:
            RequestError: It has none: it is on the meta device, or not stored, or in another shape.
        """
        held = self.held[name]
        if self.stored is None:
            if held.is_meta:
                raise RequestError(
                    f"a criterion asks for the values of {name}, which is on the meta device and has none",
                    do="plan with weights='folder/of/safetensors', or with criterion='random'",
                )
            return held.detach()
        found = next((other for other in self.names[id(held)] if other in self.stored), None)
        stored = None if found is None else self.stored[found]
        if stored is None or stored.shape != held.shape:
            got = "missing" if stored is None else str(list(stored.shape))
            raise RequestError(
                f"{name} is {got} in the weights, the model has {list(held.shape)}",
                prefix_hint(self.held, self.stored, "the model"),
                "pass the weights of exactly this architecture",
            )
        return stored.detach()


def view_group(
    group: Group, model: nn.Module | Parameters, seed: int = 0, observed: Observed | None = None
) -> GroupView:
    """See a group as a criterion does.

    Args:
        group: The group.
        model: The model whose values count, or its parameters.
        seed: For criteria that draw.
        observed: What the data says of the group.
    """
    parameters = Parameters.of(model) if isinstance(model, nn.Module) else model
    first_name: dict[int, str] = {}
    views: list[MemberView] = []
    for member in group.members:
        tensor = parameters.held.get(member.tensor)
        # A second dim of a tensor already seen counts; a second name of it does not.
        if tensor is None or first_name.setdefault(id(tensor), member.tensor) != member.tensor:
            continue
        views.append(
            MemberView(
                tensor=member.tensor,
                read=_reader(parameters, member, group),
                op=member.op,
                arg=member.arg,
                is_contracted=member.is_contracted,
                rank=member.rank,
            )
        )
    return GroupView(group.name, group.size, tuple(views), seed, observed)


def _reader(parameters: Parameters, member: Member, group: Group) -> Callable[[], Tensor]:
    return lambda: _rows(parameters.read(member.tensor), parameters.places_in(member.expr), member, group)


def _rows(tensor: Tensor, places: DimPlaces, member: Member, group: Group) -> Tensor:
    moved = tensor.movedim(member.dim, 0)
    if moved.is_complex():
        moved = torch.view_as_real(moved)
    if not moved.is_floating_point():
        moved = moved.float()
    if places.axis is group.axis:
        return moved.reshape(group.size, -1)
    index = torch.from_numpy(places.of(group.axis)).to(tensor.device)
    return moved.index_select(0, index.reshape(-1)).reshape(group.size, -1)
