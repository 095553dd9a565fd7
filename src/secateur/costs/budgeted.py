"""What predicts a latency: a meter of milliseconds, and what its kernels work on at once."""

from dataclasses import dataclass

from secateur.costs.meter import CostMeter


@dataclass(frozen=True, eq=False)
class Gauge:
    """Predicts a latency.

    Attributes:
        meter: Milliseconds for widths.
        block: Channels that a kernel of this machine works on at once: within a block of so many a wider
            layer may take no longer.
        whole_ms: What the uncut model was measured to take; None for what the meter says of it.
    """

    meter: CostMeter
    block: int
    whole_ms: float | None = None
