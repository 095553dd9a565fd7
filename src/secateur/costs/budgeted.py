"""What a budget is measured with: a meter for what is counted, a gauge for what is timed."""

from dataclasses import dataclass

from secateur.costs.memory import memory_meter
from secateur.costs.meter import Meter, macs_meter, params_meter, size_meter
from secateur.coupling import Groups

_METERS = {
    "macs": macs_meter,
    "params": params_meter,
    "size_bytes": size_meter,
    "memory": memory_meter,
}


@dataclass(frozen=True, eq=False)
class Gauge:
    """Predicts a latency.

    Attributes:
        meter: Milliseconds for widths.
        block: Channels that a kernel of this machine works on at once: within a block of so many a wider
            layer may take no longer.
        whole_ms: What the uncut model was measured to take; None for what the meter says of it.
    """

    meter: Meter
    block: int
    whole_ms: float | None = None


def meter_of(kind: str, groups: Groups) -> Meter | None:
    """The meter of a counted budget; None where channels are counted."""
    make = _METERS.get(kind)
    return None if make is None else make(groups)
