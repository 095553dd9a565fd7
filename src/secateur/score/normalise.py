"""Normalisation: scores of layers in different units made to compare across groups."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.registry import Registry

if TYPE_CHECKING:
    from secateur.score.view import GroupView

Normaliser: TypeAlias = "Callable[[Tensor, GroupView], Tensor]"

normalisers: Registry[Normaliser] = Registry("normaliser")

_TINY = torch.finfo(torch.float64).tiny


@normalisers("none")
def none(scores: Float[Tensor, " channels"], view: "GroupView") -> Float[Tensor, " channels"]:
    """Leave scores as they are: shares, gates, or what compares directly."""
    return scores


@normalisers("mean")
def by_mean(scores: Float[Tensor, " channels"], view: "GroupView") -> Float[Tensor, " channels"]:
    """Divide by the group's mean of |score|."""
    return scores / scores.abs().mean().clamp_min(_TINY)


@normalisers("max")
def by_max(scores: Float[Tensor, " channels"], view: "GroupView") -> Float[Tensor, " channels"]:
    """Divide by the group's largest |score|."""
    return scores / scores.abs().amax().clamp_min(_TINY)


@normalisers("gaussian")
def gaussian(scores: Float[Tensor, " channels"], view: "GroupView") -> Float[Tensor, " channels"]:
    """Subtract the group's mean and divide by its standard deviation; equal scores become 0."""
    centred = scores - scores.mean()
    deviation = centred.square().mean().sqrt()
    rounding = 16 * torch.finfo(scores.dtype).eps * scores.abs().amax()
    return torch.where(deviation > rounding, centred / deviation.clamp_min(_TINY), torch.zeros_like(centred))


@normalisers("size")
def by_size(scores: Float[Tensor, " channels"], view: "GroupView") -> Float[Tensor, " channels"]:
    """Divide by the parameters that go with one channel: what each freed parameter costs.

    Example:
        >>> import torch
        >>> from secateur.score.view import GroupView, MemberView
        >>> member = MemberView("w", lambda: torch.zeros(2, 5), "aten.linear", "weight", False, 2)
        >>> by_size(torch.tensor([5.0, 10.0]), GroupView("fc", 2, (member,)))
        tensor([1., 2.])
    """
    return scores / max(1, sum(member.rows.shape[1] for member in view.members))
