"""Latency: which widths to choose from, and how far to go down.

Kernels work on blocks of channels (16 floats of a vector register, say), so that time is a staircase: 17
channels take as long as 32. Where the first channel of a block costs more than half of the block, only whole
blocks are offered; a multiple that does not pay is not asked for.

The steps from each offered width to the next are taken in the order of the scope, a step at the mean rank of
its channels, until the predicted time is met. Then the last steps are given back while the time allows it:
what a layer does not gain in time it keeps in channels.

The order does not divide a score by the time that it saves (Shen et al., "Structural Pruning via
Latency-Saliency Knapsack", NeurIPS 2022): tried with norms and with first-order losses it cuts the slowest
layer down to its floor, and costs more accuracy than it saves (docs/decisions/0010-budgets.md).
"""

from math import lcm

import numpy as np
from numpy.typing import NDArray

from secateur.select.choice import Choice
from secateur.select.scope import Scope
from secateur.select.widths import Widths

_MOST_CHOICES = 64


def choose_by_latency(widths: Widths, whole: float, target: float, scope: Scope, block: int) -> Choice:
    """Choose the width of each unit by what it saves in time.

    Args:
        widths: Kept counts and their latency; it is told which widths are offered.
        whole: The milliseconds of the uncut model.
        target: The milliseconds that may stay.
        scope: How channels of different groups compare.
        block: Channels that kernels work on at once.

    Returns:
        The widths, and why some were rounded. If the target is out of reach, the smallest that there are.
    """
    sizes = [unit.size for unit in widths.units]
    share = min(1.0, max(target / whole, 0.0)) ** 0.5
    reference = [max(round(share * size), 1) for size in sizes]
    paid: dict[int, dict[int, str]] = {}
    widths.cost_of(reference)
    for index in range(len(sizes)):
        offered, paid[index] = _offer(widths, index, block)
        widths.restrict(index, offered)
        widths.move(index, reference[index])
    kept = _descend(widths, scope, target)
    notes = {index: paid[index][count] for index, count in enumerate(kept) if count in paid[index]}
    return Choice([size - count for size, count in zip(sizes, kept, strict=True)], target, rounding=notes)


def _offer(widths: Widths, index: int, block: int) -> tuple[list[int], dict[int, str]]:
    """The widths of a unit worth choosing from, descending, and why the whole blocks among them are."""
    unit, step = widths.units[index], widths.steps[index]
    lowest = min(-(-unit.floor // step) * step, unit.size)
    every = sorted({unit.size, *range(lowest, unit.size, step)}, reverse=True)
    block = lcm(block, step)
    offered: list[int] = []
    paid: dict[int, str] = {}
    while every:
        top = every[0]
        start = (top - 1) // block * block
        inside = [width for width in every if width > start]
        every = every[len(inside) :]
        offered.append(top)
        if len(inside) == 1:
            continue
        first, last = widths.move(index, inside[-1]), widths.move(index, top)
        if not every:  # nothing below to compare with: the floor is offered if it saves anything
            offered += inside[1:] if first < 0.98 * last else []
            continue
        below = widths.move(index, every[0])
        if first - below > (last - below) / 2:
            paid[top] = (
                f"{top} rather than {inside[-1]} to {inside[1]}: one more than {every[0]} costs "
                f"{first - below:.2g} ms, all of {top} {last - below:.2g} ms"
            )
        else:
            offered += inside[1:]
    return _thinned(offered), paid


def _thinned(offered: list[int]) -> list[int]:
    """At most so many widths, the first and the last among them."""
    if len(offered) <= _MOST_CHOICES:
        return offered
    chosen = np.linspace(0, len(offered) - 1, _MOST_CHOICES).round().astype(int)
    return [offered[position] for position in chosen]


def _steps(widths: Widths, scope: Scope) -> list[tuple[int, int, int]]:
    """Every step from an offered width to the next smaller one, in order: the unit, the width, the next."""
    found: list[tuple[float, int, int, int]] = []
    for index, ranks in enumerate(_ranks(widths, scope)):
        unit = widths.units[index]
        width = unit.size
        while (smaller := widths.smaller(index, width)) is not None:
            rank = float(ranks[unit.size - width : unit.size - smaller].mean())
            found.append((rank, index, width, smaller))
            width = smaller
    return [(index, width, smaller) for _, index, width, smaller in sorted(found)]


def _descend(widths: Widths, scope: Scope, target: float) -> list[int]:
    """Step down until the target is met, or no step is left; then give back what fits, the last first."""
    kept = [unit.size for unit in widths.units]
    taken: list[tuple[int, int]] = []
    steps = _steps(widths, scope)  # a scope may ask for costs, which moves the widths
    cost = widths.cost_of(kept)
    for index, width, smaller in steps:
        if cost <= target:
            break
        kept[index] = smaller
        taken.append((index, width))
        cost = widths.move(index, smaller)
    if cost > target:
        return kept
    closed: set[int] = set()
    for index, width in reversed(taken):
        if index in closed:
            continue
        if widths.move(index, width) <= target:
            kept[index] = width
        else:
            widths.move(index, kept[index])
            closed.add(index)
    return kept


def _ranks(widths: Widths, scope: Scope) -> list[NDArray[np.float64]]:
    """For each unit the position in the scope's order of each of its channels, worst first."""
    found: list[list[int]] = [[] for _ in widths.units]
    sequence = scope.order(widths)
    for position, index in enumerate(sequence):
        found[index].append(position)
    return [np.array(ranks, dtype=np.float64) for ranks in found]
