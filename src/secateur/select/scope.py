"""The registry of scopes: how channels of different groups compare.

A scope puts the channels of all units into one order in which they go. A budget takes as many of them as meet
it best (`secateur.select.meet`); a latency chooses by what each layer gains (`secateur.select.blocks`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.registry import Registry
from secateur.select.units import Unit
from secateur.select.widths import Widths

Order: TypeAlias = Callable[[Any], list[int]]
"""From units (or widths, for `is_priced`) to the index of the one that loses a channel at each step."""


@dataclass(frozen=True)
class Scope:
    """How channels of different groups compare.

    Attributes:
        compare: Which unit loses a channel at each step, down to all floors.
        is_even: Every group loses the same share.
        is_priced: `compare` is given the widths, which know what a channel costs, instead of the units.
    """

    compare: Order
    is_even: bool = False
    is_priced: bool = False

    def order(self, widths: Widths) -> list[int]:
        """The index of the unit that loses a channel at each step, down to all floors."""
        return self.compare(widths if self.is_priced else widths.units)


scopes: Registry[Scope] = Registry("scope", "secateur.select.scopes")


def scope(word: str, *, is_even: bool = False, is_priced: bool = False) -> Callable[[Order], Order]:
    """Register an order under the word that users choose it by."""

    def register(order: Order) -> Order:
        scopes.add(word, Scope(order, is_even, is_priced))
        return order

    return register


def by_score(units: Sequence[Unit], chosen: Iterable[int]) -> list[int]:
    """Order the free channels of some units by score; equal scores go from all units evenly.

    Args:
        units: All units.
        chosen: The indices of those that compare.
    """
    places = sorted(chosen)
    scores = [units[index].scores[: units[index].free] for index in places]
    shares = [units[index].shares for index in places]
    return in_order(places, shares, scores)


def in_order(places: Sequence[int], *keys: Sequence[NDArray[np.float64]]) -> list[int]:
    """The owner of each channel, in the order of the keys: the last one counts most; owners break ties.

    Args:
        places: The owners, ascending.
        keys: For each owner an array, as long as its channels are many.

    Example:
        >>> in_order([0, 3], [np.array([0.2, 0.4]), np.array([0.1, 0.2])])
        [3, 0, 3, 0]
    """
    if not places:
        return []
    owners = np.repeat(places, [len(one) for one in keys[0]])
    found: list[int] = owners[np.lexsort([np.concatenate(key) for key in keys])].tolist()  # it is stable
    return found
