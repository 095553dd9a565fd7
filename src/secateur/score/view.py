"""What a criterion sees of a group: its tensors, one row for each channel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.couple import Group, Member
from secateur.graph.keep import positions


@dataclass(frozen=True, eq=False)
class MemberView:
    """One tensor of a group.

    Attributes:
        tensor: Qualified name.
        rows: Its values, one row for each channel of the group.
        op: The operator that uses it first, "aten.conv2d".
        arg: As which argument, "weight".
        is_contracted: The operator sums over the channels: it reads them rather than makes them.
        rank: How many dims the tensor has.
    """

    tensor: str
    rows: Float[Tensor, "channels rest"]
    op: str
    arg: str
    is_contracted: bool
    rank: int

    @property
    def is_weight(self) -> bool:
        """Whether this is a weight matrix or kernel, not a bias, scale or statistic."""
        return self.rank > 1

    @property
    def is_norm_scale(self) -> bool:
        """Whether this is the scale of a batch or instance normalisation."""
        return self.op in ("aten.batch_norm", "aten.instance_norm") and self.arg == "weight"


@dataclass(frozen=True, eq=False)
class GroupView:
    """A group as a criterion sees it.

    Attributes:
        name: The group.
        size: Its channels.
        members: Its parameters, in the order of the network.
        seed: For criteria that draw.
    """

    name: str
    size: int
    members: tuple[MemberView, ...]
    seed: int = 0

    @property
    def weights(self) -> list[Float[Tensor, "channels rest"]]:
        """The rows of every weight matrix and kernel, made and read."""
        return [member.rows for member in self.members if member.is_weight]

    @property
    def norm_scales(self) -> list[Float[Tensor, "channels rest"]]:
        """The rows of every batch-norm scale."""
        return [member.rows for member in self.members if member.is_norm_scale]


def view_group(group: Group, model: nn.Module, seed: int = 0) -> GroupView:
    """Gather the rows of a group's parameters.

    Args:
        group: The group.
        model: The model whose values count.
        seed: For criteria that draw.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    seen: set[int] = set()
    views: list[MemberView] = []
    for member in group.members:
        tensor = named.get(member.tensor)
        if tensor is None or (id(tensor) in seen and not _is_new(member, views)):
            continue
        seen.add(id(tensor))
        views.append(
            MemberView(
                tensor=member.tensor,
                rows=_rows(tensor.detach(), member, group),
                op=member.op,
                arg=member.arg,
                is_contracted=member.is_contracted,
                rank=member.rank,
            )
        )
    return GroupView(group.name, group.size, tuple(views), seed)


def _is_new(member: Member, views: list[MemberView]) -> bool:
    """A second dim of a tensor already seen counts; a second name of it does not."""
    return any(view.tensor == member.tensor for view in views)


def _rows(tensor: Tensor, member: Member, group: Group) -> Tensor:
    moved = tensor.movedim(member.dim, 0)
    if not moved.is_floating_point():
        moved = moved.float()
    if member.expr is group.axis:
        return moved.reshape(group.size, -1)
    index = torch.from_numpy(positions(member.expr, group.axis)).to(tensor.device)
    return moved.index_select(0, index.reshape(-1)).reshape(group.size, -1)
