"""Aggregation: from one score for each member of a group and channel to one for each channel."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from secateur.registry import Registry

Aggregate: TypeAlias = Callable[[Float[Tensor, "members channels"]], Float[Tensor, " channels"]]

aggregates: Registry[Aggregate] = Registry("aggregate")


@aggregates("mean")
def mean(scores: Float[Tensor, "members channels"]) -> Float[Tensor, " channels"]:
    """Take the mean: groups of many members are no more important for that alone."""
    return scores.mean(0)


@aggregates("sum")
def total(scores: Float[Tensor, "members channels"]) -> Float[Tensor, " channels"]:
    """Take the sum: a channel that more layers make and read counts more."""
    return scores.sum(0)


@aggregates("max")
def largest(scores: Float[Tensor, "members channels"]) -> Float[Tensor, " channels"]:
    """Take the largest: a channel that one member needs stays."""
    return scores.amax(0)


@aggregates("prod")
def product(scores: Float[Tensor, "members channels"]) -> Float[Tensor, " channels"]:
    """Take the geometric mean, so that groups of few and of many members compare.

    Example:
        >>> import torch
        >>> product(torch.tensor([[2.0, 0.0], [8.0, 5.0]]))
        tensor([4., 0.])
    """
    return scores.abs().log().mean(0).exp()
