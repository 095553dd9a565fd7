"""ERK, the Erdős-Rényi-Kernel: dense where a layer is small.

    density of a layer = scale * (sum of its dims) / (product of its dims)

with one scale for all, so that the whole network has the sparsity that was asked for. Where that gives more
than all entries, the layer stays dense and the scale of the others grows.

References:
    Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, section 3.
    https://arxiv.org/abs/1911.11134
"""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from secateur.mask.amount import Amount
from secateur.mask.scope import count_of_all, scopes
from secateur.mask.structure import Units


@scopes("erk")
def erk(units: Sequence[Units], amounts: Sequence[Amount]) -> list[Tensor]:
    """Mask the lowest units of each tensor, down to its Erdős-Rényi-Kernel density.

    A unit that was masked before stays so: a tensor below its density loses nothing more.
    """
    sizes = [len(one.scores) for one in units]
    alive = [int(one.alive.sum()) for one in units]
    left = sum(alive) - count_of_all(units, amounts[0])
    densities = erk_densities([one.shape for one in units], sizes, left)
    wanted = [round(density * size) for density, size in zip(densities, sizes, strict=True)]
    return [one.lowest(max(have - keep, 0)) for one, have, keep in zip(units, alive, wanted, strict=True)]


def erk_densities(shapes: Sequence[tuple[int, ...]], sizes: Sequence[int], left: int) -> list[float]:
    """The share of each tensor that stays.

    Args:
        shapes: Shape of each tensor.
        sizes: How many units each has.
        left: How many units stay in all.

    Example:
        >>> [round(density, 3) for density in erk_densities([(10, 10), (100, 100)], [100, 10000], 1010)]
        [0.918, 0.092]
    """
    raw = [sum(shape) / prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        free = [at for at in range(len(sizes)) if at not in dense]
        budget = left - sum(sizes[at] for at in dense)
        weight = sum(raw[at] * sizes[at] for at in free)
        scale = max(budget, 0) / weight if weight else 0.0
        full = {at for at in free if scale * raw[at] > 1}
        if not full:
            return [1.0 if at in dense else scale * raw[at] for at in range(len(sizes))]
        dense |= full
