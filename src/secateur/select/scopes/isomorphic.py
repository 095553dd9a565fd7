"""Isomorphic: groups of one structure compare by score, and each class of such groups loses the same share.

References:
    Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024, section 3. https://arxiv.org/abs/2407.04616
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from secateur.select.scope import by_score, scope
from secateur.select.units import Unit


@scope("isomorphic")
def isomorphic(units: Sequence[Unit]) -> list[int]:
    """Order the channels of each class by score, and merge the classes by rank."""
    classes: dict[object, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        classes[unit.signature].append(index)
    orders = [np.array(by_score(units, members), dtype=np.int64) for members in classes.values()]
    wholes = [sum(units[index].size for index in members) for members in classes.values()]
    ranks = [(np.arange(len(order)) + 0.5) / whole for order, whole in zip(orders, wholes, strict=True)]
    if not orders:
        return []
    owners = np.concatenate(orders)
    found: list[int] = owners[np.lexsort([owners, np.concatenate(ranks)])].tolist()
    return found
