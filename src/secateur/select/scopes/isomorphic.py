"""Isomorphic: groups of one structure compare by score, and each class of such groups loses the same share.

References:
    Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024, section 3. https://arxiv.org/abs/2407.04616
"""

from collections import defaultdict
from collections.abc import Sequence

from secateur.select.scope import by_score, scope
from secateur.select.units import Unit


@scope("isomorphic")
def isomorphic(units: Sequence[Unit]) -> list[int]:
    """Order the channels of each class by score, and merge the classes by rank."""
    classes: dict[object, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        classes[unit.signature].append(index)
    merged: list[tuple[float, int]] = []
    for members in classes.values():
        whole = sum(units[index].size for index in members)
        merged.extend(((rank + 0.5) / whole, index) for rank, index in enumerate(by_score(units, members)))
    return [index for _, index in sorted(merged)]
