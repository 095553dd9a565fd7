"""Why each group has its width: its threshold and floor, its rounding, and what the next step would do."""

from collections.abc import Sequence

import numpy as np

from secateur.plans.parts import Why
from secateur.select.choice import Choice
from secateur.select.units import Unit
from secateur.select.widths import Widths


def explain_widths(
    widths: Widths,
    choice: Choice,
    kept: Sequence[int],
) -> dict[str, Why]:
    """Say of every group why it keeps so many channels.

    Args:
        widths: Kept counts and their cost.
        choice: What goes, before rounding.
        kept: Channels that each unit keeps.
    """
    here = widths.cost_of(kept)
    found: dict[str, Why] = {}
    for index, unit in enumerate(widths.units):
        step = widths.steps[index]
        unrounded = unit.size - choice.removed[index]
        text = choice.rounding.get(index, "")
        if not text and kept[index] != unrounded:
            text = f"{unrounded} rounded up to {widths.steps_of(index)}"
        less, more = widths.smaller(index, kept[index]), widths.larger(index, kept[index])
        gone = unit.size - kept[index]
        saves = None if less is None else here - widths.move(index, less)
        costs = None if more is None else widths.move(index, more) - here
        widths.move(index, kept[index])
        why = Why(
            decided=_decided(unit, kept[index], unrounded, choice.decided),
            floor=unit.floor,
            unrounded=unrounded,
            rounding=text,
            highest_removed=float(unit.scores[gone - 1]) if gone else None,
            lowest_kept=float(unit.scores[gone]),
            step=kept[index] - less if less is not None else step,
            saves=saves,
            costs=costs,
            curve=_curve(unit, gone),
        )
        for name in unit.names:
            others = tuple(other for other in unit.names if other != name)
            found[name] = why.model_copy(update={"together": others})
    return found


def _curve(unit: Unit, gone: int) -> tuple[tuple[int, float], ...]:
    """The sum of the lowest scores at some widths, and at the one that was chosen."""
    most = unit.size - unit.floor
    sums = np.concatenate([[0.0], np.cumsum(unit.scores, dtype=np.float64)])
    if not np.isfinite(sums).all():
        return ()
    points = sorted({round(most * eighth / 8) for eighth in range(9)} | {gone})
    return tuple((point, float(sums[point])) for point in points)


def _decided(unit: Unit, kept: int, unrounded: int, otherwise: str) -> str:
    if unrounded <= unit.floor < unit.size:
        return "floor"
    if kept != unrounded:
        return "rounding"
    if kept == unit.size:
        return "whole"
    return otherwise
