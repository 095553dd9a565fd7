"""MACs: the multiply-accumulates of one forward pass."""

from secateur.costs.meter import macs_meter
from secateur.select.budget import Budget, budget


@budget("macs")
class Macs(Budget):
    """MACs that may stay, as a share (0.5, "50%") or a count (1.5e6, "1.5M")."""

    unit = "MACs"
    meter = staticmethod(macs_meter)
