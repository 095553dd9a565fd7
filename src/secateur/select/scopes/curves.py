"""Curves: the channels go first whose score is lowest for what their removal saves of the budget.

With scores that are errors (`after-refit`: e(k) - e(k - 1) of each group) this is the greedy solution of

    minimise  sum over groups of e_g(k_g)    so that the budget is met,

the one of equal slopes: no group could give up a channel more cheaply than another. What a channel saves
hangs on the widths of the groups beside it, so it is asked anew on the way. For a budget of channels it is
"global".

References:
    Everett, "Generalized Lagrange multiplier method for solving problems of optimum allocation of resources",
    Operations Research 11(3), 1963; widths by it: Frantar and Alistarh, "Optimal Brain Compression", NeurIPS
    2022, section 4. https://arxiv.org/abs/2208.11580
"""

import numpy as np
from numpy.typing import NDArray

from secateur.select.scope import scope
from secateur.select.widths import Widths

_ROUNDS = 24
"""How often it is asked what a channel saves."""


@scope("curves", is_priced=True)
def curves(widths: Widths) -> list[int]:
    """Order all channels by score over savings."""
    removed = [0] * len(widths.units)
    left = sum(unit.free for unit in widths.units)
    share = -(-left // _ROUNDS)
    order: list[int] = []
    while len(order) < left:
        savings = _savings(widths, removed)
        rates = np.concatenate(
            [_rates(widths, at, gone, savings[at]) for at, gone in enumerate(removed)], dtype=np.float64
        )
        units = np.repeat(
            np.arange(len(removed)),
            [unit.free - gone for unit, gone in zip(widths.units, removed, strict=True)],
        )
        taken = units[np.argsort(rates, kind="stable")[:share]].tolist()
        order.extend(taken)
        for at in taken:
            removed[at] += 1
    return order


def _savings(widths: Widths, removed: list[int]) -> list[float]:
    """What one channel of each unit saves at these widths, in the budget's units."""
    kept = [unit.size - gone for unit, gone in zip(widths.units, removed, strict=True)]
    whole = widths.cost_of(kept)
    savings: list[float] = []
    for at, unit in enumerate(widths.units):
        step = min(max(widths.steps[at], unit.size // 8, 1), kept[at] - 1)
        if kept[at] <= unit.floor or step < 1:
            savings.append(1.0)
            continue
        savings.append((whole - widths.move(at, kept[at] - step)) / step)
        widths.move(at, kept[at])
    return savings


def _rates(widths: Widths, at: int, gone: int, saved: float) -> NDArray[np.float64]:
    """What each channel costs for what it saves; those that save nothing go last."""
    unit = widths.units[at]
    scores = unit.scores[gone : unit.free]
    return scores / saved if saved > 0 else np.full(len(scores), np.inf)
