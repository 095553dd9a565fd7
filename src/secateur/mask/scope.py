"""Scopes: how an amount is spread over several tensors."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from secateur.mask.amount import Amount
from secateur.mask.structure import Units
from secateur.registry import Registry

Scope: TypeAlias = Callable[[Sequence[Units], Sequence[Amount]], list[Tensor]]
"""From the units of each tensor and its amount to which units stay."""

scopes: Registry[Scope] = Registry("scope", "secateur.mask.scopes")


def lowest_of_all(units: Sequence[Units], scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Mask the lowest of all tensors together.

    Args:
        units: The units of each tensor.
        scores: What compares, for each tensor.
        count: How many alive units go.

    Returns:
        For each tensor which units stay.
    """
    alive = torch.cat([one.alive for one in units])
    flat = torch.cat([one.double().cpu() for one in scores])
    free = alive.cpu().clone()
    start = 0
    for one in units:
        if one.must_keep_one and bool(one.alive.any()):
            best = one.scores.masked_fill(~one.alive, -torch.inf).argmax()
            free[start + best.cpu()] = False
        start += len(one.scores)
    keep = alive.cpu().clone()
    at = free.nonzero().flatten()
    count = min(count, len(at))
    if count:
        keep[at[torch.topk(flat[at], count, largest=False).indices]] = False
    parts = keep.split([len(one.scores) for one in units])
    return [part.to(one.alive.device) for part, one in zip(parts, units, strict=True)]
