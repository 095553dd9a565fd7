"""Local: channels compare within their group alone, and every group loses the same share."""

from collections.abc import Sequence

from secateur.select.scope import scope
from secateur.select.units import Unit


@scope("local", is_even=True)
def local(units: Sequence[Unit]) -> list[int]:
    """Order all channels by their rank within the group."""
    steps = [(share, index) for index, unit in enumerate(units) for share in unit.shares.tolist()]
    return [index for _, index in sorted(steps)]
