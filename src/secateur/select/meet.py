"""Meeting a budget: the shortest prefix of the sequence that it allows, and what can then be given back.

The prefix is found by binary search, as a cost falls with every channel. It may remove too much: where widths
are rounded one step takes several channels, and channels of layers that a budget does not feel (memory is a
peak, which a few layers make) go for nothing. So the best of the removed channels are given back while the
budget allows it, one walk over the prefix from its end.
"""

from collections.abc import Sequence

import numpy as np

from secateur.select.widths import Widths

NEAR = 0.01
"""A budget counts as met when so much of it, at most, is unused."""

_MOST_STEPS = 20_000


def removed_after(widths: Widths, sequence: Sequence[int], steps: int | None = None) -> list[int]:
    """Channels that each unit has lost after some steps of a sequence; after all of them for None."""
    return np.bincount(np.array(sequence[:steps], dtype=np.int64), minlength=len(widths.units)).tolist()


def shortest(widths: Widths, target: float, sequence: Sequence[int]) -> int:
    """The fewest steps of a sequence after which what is left costs no more than the target."""
    low, high = 0, len(sequence)
    while low < high:
        middle = (low + high) // 2
        if widths.cost(removed_after(widths, sequence, middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return low


def meet(
    widths: Widths, target: float, sequence: Sequence[int], *, is_even: bool, gives_back: bool = False
) -> list[int]:
    """Choose how many channels each unit loses, so that what is left costs no more than a target in reach.

    Args:
        widths: Kept counts and their cost.
        target: What may stay.
        sequence: The unit that loses a channel at each step, in order.
        is_even: A unit is given back one step at most, so that shares stay alike.
        gives_back: Give back what fits even where the target is met closely.

    Returns:
        Channels removed from each unit.
    """
    steps = shortest(widths, target, sequence)
    within = removed_after(widths, sequence, steps)
    if gives_back or widths.cost(within) < (1 - NEAR) * target:
        return _give_back(widths, within, sequence[:steps], target, is_even=is_even)
    return within


def _give_back(
    widths: Widths, removed: list[int], taken: Sequence[int], target: float, *, is_even: bool
) -> list[int]:
    """Give back what was removed, the last taken first, while it fits; a unit that does not fit is done."""
    removed = list(removed)
    kept = widths.kept(removed)
    widths.cost_of(kept)
    closed: set[int] = set()
    stride = len(taken) // _MOST_STEPS + 1
    for index in reversed(taken):
        if index in closed or not removed[index]:
            continue
        back = min(stride, removed[index])
        removed[index] -= back
        now = widths.rounded(index, widths.units[index].size - removed[index])
        if now == kept[index]:
            continue
        if widths.move(index, now) > target:
            widths.move(index, kept[index])
            removed[index] += back
            closed.add(index)
            continue
        kept[index] = now
        if is_even:
            closed.add(index)
    return removed
