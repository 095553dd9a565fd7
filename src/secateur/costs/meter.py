"""Meters: what a model costs when each axis keeps so many positions, without cutting it.

A cost is made of terms, one for each tensor, call or layer, and every term depends on few axes. Asked again
after a few axes have changed, a meter computes only their terms anew, so that trying one channel more or less
in each of a thousand groups takes a thousand small steps.

    params      sum over parameters of the product of their dims
    macs        sum over calls of the products of their dims
    size_bytes  the same over parameters and buffers, times the bytes of an element
    memory      `size_bytes` plus the peak of the activations (`secateur.costs.memory`)
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.coupling import Groups
from secateur.graph.axes import Axis, Expr, axes_in, resolve
from secateur.graph.keep import size_of

Kept = Mapping[Axis, int]


@dataclass(frozen=True)
class Term:
    """A part of a cost.

    Attributes:
        at: What it costs when each axis keeps so many positions; axes not named stay whole.
        axes: The axes that it depends on.
    """

    at: Callable[[Kept], float]
    axes: frozenset[Axis]


class CostMeter:
    """Measures a cost again and again, while a few axes change.

    Args:
        terms: The parts of the cost.
        join: Makes the cost of the parts' costs, an array in the order of `terms`.

    Example:
        >>> from secateur.graph.axes import product
        >>> rows, columns = Axis(8), Axis(4)
        >>> meter = CostMeter([size_term([rows, columns]), size_term([rows], 2.0)])
        >>> meter.at({}), meter.at({rows: 3})
        (48.0, 18.0)
        >>> meter.move({columns: 2}), meter.move({columns: 4})      # rows are still 3
        (12.0, 18.0)
    """

    def __init__(
        self, terms: Sequence[Term], join: Callable[[NDArray[np.float64]], float] = lambda each: each.sum()
    ) -> None:
        self._terms = terms
        self._join = join
        self._kept: dict[Axis, int] = {}
        self._each = np.array([term.at({}) for term in terms], dtype=np.float64)
        self._of_axis: dict[Axis, list[int]] = defaultdict(list)
        for index, term in enumerate(terms):
            for axis in term.axes:
                self._of_axis[axis].append(index)

    def at(self, kept: Kept) -> float:
        """The cost when each axis keeps so many positions; axes not named stay whole."""
        changed = {axis for axis, left in kept.items() if self._kept.get(axis, axis.size) != left}
        changed |= {axis for axis, left in self._kept.items() if axis not in kept and left != axis.size}
        self._kept = dict(kept)
        return self._measured(changed)

    def move(self, few: Kept) -> float:
        """The cost after a few axes have changed and the others keep what was asked last."""
        self._kept.update(few)
        return self._measured(few)

    def _measured(self, changed: Iterable[Axis]) -> float:
        for index in {index for axis in changed for index in self._of_axis.get(axis, ())}:
            self._each[index] = self._terms[index].at(self._kept)
        return float(self._join(self._each))


def size_term(dims: Sequence[Expr], factor: float = 1.0) -> Term:
    """The product of some dims, times a factor."""
    return Term(lambda kept: factor * size_of(dims, kept), leaves_of(dims))


def leaves_of(dims: Iterable[Expr]) -> frozenset[Axis]:
    """The axes that some dims are made of."""
    return frozenset(leaf for dim in dims for leaf in axes_in(resolve(dim)))


def params_meter(groups: Groups) -> CostMeter:
    """Counts parameters; tied ones once."""
    return CostMeter([size_term(groups.findings.dims[value]) for value in _stored(groups, {"parameter"})])


def macs_meter(groups: Groups) -> CostMeter:
    """Counts the multiply-accumulates of one forward pass on the recorded inputs."""
    return CostMeter([size_term(term) for terms in groups.findings.macs.values() for term in terms])


def size_terms(groups: Groups) -> list[Term]:
    """The bytes of each parameter and buffer; tied ones once."""
    return [
        size_term(groups.findings.dims[value], item_bytes(groups.graph.values[value].dtype))
        for value in _stored(groups, {"parameter", "buffer"})
    ]


def size_meter(groups: Groups) -> CostMeter:
    """Counts the bytes of parameters and buffers."""
    return CostMeter(size_terms(groups))


def _stored(groups: Groups, kinds: set[str]) -> list[int]:
    return [value for value in groups.graph.names if groups.graph.values[value].kind in kinds]


def item_bytes(dtype: str) -> int:
    """Bytes of an element of a type by PyTorch's word for it.

    Example:
        >>> item_bytes("float16"), item_bytes("int64")
        (2, 8)
    """
    found: torch.dtype = getattr(torch, dtype)
    return found.itemsize
