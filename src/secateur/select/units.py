"""Units: what loses channels together."""

from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import NDArray

from secateur.coupling import Group, Groups
from secateur.score import Scores
from secateur.select.floors import Floors


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

    @property
    def free(self) -> int:
        """Channels that may go."""
        return self.size - self.floor

    @property
    def shares(self) -> NDArray[np.float64]:
        """How much of the unit is gone, half a channel less, when each of its free channels goes."""
        return (np.arange(self.free) + 0.5) / self.size


def units_of(groups: Groups, scores: Scores, floors: Floors) -> list[Unit]:
    """Join tied groups and order each group's channels, worst first.

    Args:
        groups: The groups of the model.
        scores: Their scores; a tied group without scores keeps all of its tie whole.
        floors: What always stays of each group.
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
        units.append(
            Unit(
                names=names,
                orders=tuple(orders),
                scores=np.mean(values, axis=0),
                floor=max(floors.of_group(groups[other]) for other in names),
                signature=_signature(groups[name]),
                multiple=lcm(*(groups[other].multiple for other in names)),
            )
        )
    return units


def _signature(group: Group) -> tuple[object, ...]:
    """What makes two groups of one structure: size, and how each member uses the axis."""
    return (group.size, *((member.op, member.arg, member.dim) for member in group.members))
