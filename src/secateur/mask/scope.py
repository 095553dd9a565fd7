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


def count_of_all(units: Sequence[Units], amount: Amount) -> int:
    """How many of the units of all tensors together go."""
    return amount.count(sum(len(one.scores) for one in units), sum(int(one.alive.sum()) for one in units))


def lowest_of_all(units: Sequence[Units], scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Mask the lowest of all tensors together.

    Where units are channels the best of each tensor stays: without it the network would be cut in two.

    Args:
        units: The units of each tensor.
        scores: What compares, for each tensor.
        count: How many alive units go.

    Returns:
        For each tensor which units stay.
    """
    keep = torch.cat([one.alive for one in units]).cpu()
    free = [one.alive.clone() for one in units]
    for one, left in zip(units, free, strict=True):
        if one.must_keep_one and bool(one.alive.any()):
            left[one.scores.masked_fill(~one.alive, -torch.inf).argmax()] = False
    at = torch.cat(free).cpu().nonzero().flatten()
    flat = torch.cat([one.double().cpu() for one in scores])
    keep[at[torch.topk(flat[at], min(count, len(at)), largest=False).indices]] = False
    parts = keep.split([len(one.scores) for one in units])
    return [part.to(one.alive.device) for part, one in zip(parts, units, strict=True)]
