"""Meeting a budget: the shortest prefix of the sequence that it allows, and what can then be given back.

The prefix is found by binary search, as a cost falls with every channel. It may remove too much: where widths
are rounded one step takes several channels, and channels of layers that a budget does not feel (memory is a
peak, which a few layers make) go for nothing. So the best of the removed channels are given back while the
budget allows it, one walk over the prefix from its end.
"""

from collections.abc import Sequence

import numpy as np

from secateur.errors import RequestError
from secateur.select.budget import Budget
from secateur.select.widths import Widths

NEAR = 0.01
"""A budget counts as met when so much of it, at most, is unused."""

_MOST_STEPS = 20_000


def meet(widths: Widths, budget: Budget, sequence: Sequence[int], scope: str) -> tuple[list[int], float]:
    """Choose how many channels each unit loses.

    Args:
        widths: Kept counts and their cost.
        budget: How much may stay.
        sequence: The unit that loses a channel at each step, in order.
        scope: Under "local" a unit is given back one step at most, so that shares stay alike.

    Returns:
        Channels removed from each unit, and the budget's target in its own units. A ratio is met as nearly as
        can be, other budgets from below.

    Raises:
        RequestError: The smallest reachable is more than the budget.
    """

    def removed_after(steps: int) -> list[int]:
        counts = np.bincount(np.asarray(sequence[:steps], dtype=np.int64), minlength=len(widths.units))
        return [int(count) for count in counts]

    target = budget.target(widths.cost([0] * len(widths.units)))
    low, high = 0, len(sequence)
    smallest = widths.cost(removed_after(high))
    if smallest > target:
        if budget.kind == "ratio":
            return removed_after(high), target
        raise out_of_reach(budget, target, smallest)
    while low < high:
        middle = (low + high) // 2
        if widths.cost(removed_after(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    within = removed_after(low)
    if budget.kind == "ratio":
        over = removed_after(max(low - 1, 0))
        return min(within, over, key=lambda removed: abs(widths.cost(removed) - target)), target
    if budget.kind == "memory" or widths.cost(within) < (1 - NEAR) * target:
        within = _give_back(widths, within, sequence[:low], target, is_even=scope == "local")
    return within, target


def out_of_reach(budget: Budget, target: float, smallest: float) -> RequestError:
    """The refusal of a budget that cannot be met."""
    return RequestError(
        f"{budget} allows {budget.show(target)}, the smallest reachable is {budget.show(smallest)}",
        ["floors, rounding and protected groups keep the rest"],
        "ask for more, or lower min_keep or round_to",
    )


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
