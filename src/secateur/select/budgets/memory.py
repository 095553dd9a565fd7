"""Memory: the bytes that a forward pass without gradients needs at once.

It is a peak that a few layers make. What goes elsewhere goes for nothing, and is given back.
"""

from secateur.costs.memory import memory_meter
from secateur.select.budget import budget
from secateur.select.budgets.size_bytes import SizeBytes


@budget("memory")
class Memory(SizeBytes):
    """Bytes that a forward pass may need at once: weights and the activations that are alive together.

    On the example inputs, without gradients. As a share, a count or a text, as for `size_bytes`.
    """

    meter = staticmethod(memory_meter)
    gives_back = True
