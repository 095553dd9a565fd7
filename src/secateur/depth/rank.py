r"""Rank: how much a block matters, by the criteria that score channels.

    score(block) = mean over the axes held in the block of  mean_c s_c(w) / mean_c s_c(z)

s is a criterion, w the block's own tensors that hold the axis, one row for each channel c. Criteria in the
units of a layer (`l1`, `l2`) cannot compare layers of different shapes, so they are divided by what they give
tensors z of the same shapes with independent normal entries of variance 1 / inputs, the scale that keeps the
variance of a signal: a block of score 1 is about as large as a freshly initialised one. For criteria whose
units compare directly (`bn-scale`, `random`, your own) z is left out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from secateur.coupling import Group, Groups
from secateur.depth.blocks import Block
from secateur.errors import RequestError
from secateur.score.criterion import Criterion, Scorer, as_criterion
from secateur.score.scores import checked_scores
from secateur.score.view import GroupView, MemberView, Parameters, view_group

_Shapes: TypeAlias = tuple[tuple[object, ...], ...]


def score_blocks(
    model: nn.Module, groups: Groups, blocks: Sequence[Block], criterion: str | Scorer, seed: int = 0
) -> dict[str, float]:
    """Score blocks; larger means keep.

    Args:
        model: The model whose values count.
        groups: Its groups.
        blocks: The blocks to compare.
        criterion: A registered name, or a callable from a group's view to scores of shape (channels,). It
            sees the members that lie in the block, also of groups that may not be cut.
        seed: For criteria that draw.

    Returns:
        A score by block name.

    Raises:
        RequestError: The criterion is unknown, or cannot score a block.
    """
    chosen = as_criterion(criterion)
    parameters = Parameters.of(model)
    fresh: dict[_Shapes, float] = {}
    return {block.name: _score(parameters, groups, block, chosen, seed, fresh) for block in blocks}


def _score(
    parameters: Parameters,
    groups: Groups,
    block: Block,
    criterion: Criterion,
    seed: int,
    fresh: dict[_Shapes, float],
) -> float:
    found: list[float] = []
    for group in groups:
        inner = _inside(group, block)
        if inner is None:
            continue
        view = view_group(inner, parameters, seed)
        if not view.members or not criterion.applies(view):
            continue
        value = _mean(criterion, view)
        if criterion.normalise != "none":
            shapes = tuple(
                (member.op, member.arg, member.dim, parameters.held[member.tensor].shape)
                for member in inner.members
                if member.tensor in parameters.held
            )
            if shapes not in fresh:
                fresh[shapes] = _mean(criterion, _fresh(view, parameters))
            value /= fresh[shapes]
        found.append(value)
    if not found:
        raise RequestError(
            f"criterion {criterion.name} cannot score block {block.name}",
            [f"it needs {criterion.reads}, the block has none"],
            "choose another criterion, or protect the block",
        )
    return sum(found) / len(found)


def _inside(group: Group, block: Block) -> Group | None:
    """The part of a group that lies in a block."""
    members = tuple(member for member in group.members if member.tensor.startswith(f"{block.name}."))
    if not members:
        return None
    return replace(group, name=f"{block.name}: {group.name}", members=members)


def _mean(criterion: Criterion, view: GroupView) -> float:
    return float(checked_scores(criterion.score(view), view, criterion).mean())


def _fresh(view: GroupView, parameters: Parameters) -> GroupView:
    """The same view with random values of the scale of fresh layers."""
    members = tuple(
        _fresh_member(member, parameters.held[member.tensor].shape, seed)
        for seed, member in enumerate(view.members)
    )
    return replace(view, members=members)


def _fresh_member(member: MemberView, shape: torch.Size, seed: int) -> MemberView:
    rows, inputs = member.rows.shape, max(shape[1:].numel(), 1)

    def read() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(rows, generator=generator, dtype=torch.float64, device="cpu")
        return noise / inputs**0.5

    return replace(member, read=read)
