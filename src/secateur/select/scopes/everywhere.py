"""Global: all channels of the network compare by score, the lowest go first."""

from collections.abc import Sequence

from secateur.select.scope import by_score, scope
from secateur.select.units import Unit


@scope("global")
def everywhere(units: Sequence[Unit]) -> list[int]:
    """Order all channels by score."""
    return by_score(units, range(len(units)))
