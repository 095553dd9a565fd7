"""Parameters; tied ones count once."""

from secateur.costs.meter import params_meter
from secateur.select.budget import Budget, budget


@budget("params")
class Params(Budget):
    """Parameters that may stay, as a share (0.5, "50%") or a count (2e6, "2M")."""

    unit = "parameters"
    meter = staticmethod(params_meter)
