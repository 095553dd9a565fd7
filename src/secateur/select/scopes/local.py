"""Local: channels compare within their group alone, and every group loses the same share."""

from collections.abc import Sequence

from secateur.select.scope import in_order, scope
from secateur.select.units import Unit


@scope("local", is_even=True)
def local(units: Sequence[Unit]) -> list[int]:
    """Order all channels by their rank within the group."""
    return in_order(range(len(units)), [unit.shares for unit in units])
