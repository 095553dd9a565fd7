"""Units: what loses channels together, and in which order the channels of all units go."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm

import numpy as np
from numpy.typing import NDArray

from secateur.coupling import Group, Groups
from secateur.score import Scores

SCOPES = ("global", "local", "isomorphic")

_ROUNDING = 1e-9
"""0.55 * 100 is a little more than 55."""


@dataclass(frozen=True)
class Unit:
    """Groups that lose channels together, one each a step, worst first.

    Attributes:
        names: The groups; several where they must keep equal counts.
        orders: The channels of each group, worst first.
        scores: Their scores, ascending; means over the groups.
        floor: Channels that always stay.
        signature: What makes two units of one structure.
        multiple: A kernel wants a multiple of so many channels.
    """

    names: tuple[str, ...]
    orders: tuple[NDArray[np.int64], ...]
    scores: NDArray[np.float64]
    floor: int
    signature: tuple[object, ...]
    multiple: int

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.scores)


def units_of(groups: Groups, scores: Scores, min_keep: float) -> list[Unit]:
    """Join tied groups and order each group's channels, worst first.

    Args:
        groups: The groups of the model.
        scores: Their scores; a tied group without scores keeps all of its tie whole.
        min_keep: Share of each group that always stays, at least one channel.
    """
    tied: dict[str, tuple[str, ...]] = {name: names for names, _ in groups.ties for name in names}
    units: list[Unit] = []
    done: set[str] = set()
    for name in scores.by_group:
        names = tied.get(name, (name,))
        if name in done or any(other not in scores.by_group for other in names):
            continue
        done.update(names)
        orders, values = [], []
        for other in names:
            value = scores.by_group[other].numpy()
            order = np.argsort(value, kind="stable")
            orders.append(order)
            values.append(value[order])
        size = groups[name].size
        units.append(
            Unit(
                names=names,
                orders=tuple(orders),
                scores=np.mean(values, axis=0),
                floor=min(max(1, ceil(min_keep * size - _ROUNDING)), size),
                signature=_signature(groups[name]),
                multiple=lcm(*(groups[other].multiple for other in names)),
            )
        )
    return units


def _signature(group: Group) -> tuple[object, ...]:
    """What makes two groups of one structure: size, and how each member uses the axis."""
    return (group.size, *((member.op, member.arg, member.dim) for member in group.members))


def sequence_of(units: Sequence[Unit], scope: str) -> list[int]:
    """The unit that loses a channel at each step, in order; equal scores go from all units evenly."""
    classes: dict[object, list[tuple[float, float, int]]] = defaultdict(list)
    for index, unit in enumerate(units):
        key = unit.signature if scope == "isomorphic" else None
        steps = unit.size - unit.floor
        shares = (np.arange(steps) + 0.5) / unit.size
        keys = shares if scope == "local" else unit.scores[:steps]
        classes[key].extend(zip(keys.tolist(), shares.tolist(), [index] * steps, strict=True))
    if len(classes) == 1:
        (only,) = classes.values()
        return [index for _, _, index in sorted(only)]
    merged: list[tuple[float, int]] = []
    for steps_of_class in classes.values():
        whole = sum(units[index].size for index in {index for _, _, index in steps_of_class})
        ordered = sorted(steps_of_class)
        merged.extend(((rank + 0.5) / whole, index) for rank, (_, _, index) in enumerate(ordered))
    return [index for _, index in sorted(merged)]
