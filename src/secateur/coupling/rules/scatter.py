"""Writing by number: the dim that is written into stays, the others pass.

index_add      y = x;  y[..., index[j], ...] += source[..., j, ...]
scatter_add    y = x;  y[..., index[..., j, ...], ...] += src[..., j, ...]
index_put      y = x;  y[indices] = values
masked_scatter y = x;  y[mask] = the numbers of source, one after the other
"""

import itertools
from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule, traits_of
from secateur.coupling.rules.indexing import read_places
from secateur.coupling.rules.pieces import sliced
from secateur.graph.axes import Expr
from secateur.graph.node import Graph, first_operand
from secateur.graph.trait import Trait

_REASON = "its positions are written by number"


def _equate_others(call: Call, at: int, dims: Sequence[Expr], source: Sequence[Expr]) -> None:
    """Equate two tensors everywhere but at one dim, which is protected in both."""
    for place, (dim, other) in enumerate(zip(dims, source, strict=True)):
        if place != at:
            call.equate(dim, other)
        else:
            call.protect(dim, _REASON)
            call.protect(other, _REASON)


_INDEXED = {
    "aten.index_add": "T(3, 4).index_add(0, torch.tensor([0, 2]), T(2, 4))",
    "aten.index_copy": "T(2, 3).index_copy(1, torch.tensor([0, 2]), T(2, 2))",
}


@rule(*_INDEXED, law="self(... a ...), index(j), source(... j ...): a and j stay", samples=_INDEXED)
def index_write(call: Call) -> list[list[Expr]]:
    """Some positions of one dim take what the source holds."""
    dims = call["self"]
    for dim in call["index"]:
        call.protect(dim, _REASON)
    _equate_others(call, call.dim(call.arg("dim"), len(dims)), dims, call["source"])
    return [dims]


@rule(
    "aten.index_fill",
    law="self(... a ...), index(j): a and j stay",
    samples=("T(3, 4).index_fill(0, torch.tensor([0, 2]), 1.5)",),
)
def index_fill(call: Call) -> list[list[Expr]]:
    """Some positions of one dim take one number."""
    dims = call["self"]
    for dim in [*call["index"], dims[call.dim(call.arg("dim"), len(dims))]]:
        call.protect(dim, _REASON)
    return [dims]


_SCATTERED = {
    "aten.scatter": "T(3, 4).scatter(0, (T(2, 4) > 0).long(), T(2, 4))",
    "aten.scatter_add": "T(2, 3).scatter_add(1, (T(2, 5) > 0).long(), T(2, 5))",
    "aten.scatter_reduce": "T(3, 4).scatter_reduce(0, (T(2, 4) > 0).long(), T(2, 4), 'amax')",
}


@rule(
    *_SCATTERED,
    law="self(... a ...), index(... j ...), src(... j ...): a and j stay, the other dims are equal",
    samples=_SCATTERED,
)
def scatter(call: Call) -> list[list[Expr]]:
    """Every position of the index says where one of the source goes."""
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims))
    for name in ("index", "src"):
        if name not in call:
            continue
        for place, (dim, other) in enumerate(zip(dims, call[name], strict=True)):
            if place != at and dim.size == other.size:
                call.equate(dim, other)
                continue
            for expr in (dim, other):
                call.protect(expr, _REASON if place == at else "only its first positions are written")
    return [dims]


@rule(
    "aten.index_put",
    "aten._index_put_impl",
    law="self(... a b ...), indices(j), (j), values(... j ...): a, b and j stay, the rest passes; "
    "a mask whose positions all get the same is element-wise",
    samples={
        "aten.index_put": "torch.ops.aten.index_put(T(2, 3, 4), [None, torch.tensor([0, 2])], T(2, 2, 4))",
        "aten._index_put_impl": "torch.ops.aten._index_put_impl_(T(3, 4).clone(), [torch.tensor([0])], T(4))",
    },
)
def index_put(call: Call) -> list[list[Expr]]:
    """Indexing on the left of an assignment."""
    dims, places = call["self"], read_places(call)
    rest = places.rest(dims)
    after = rest[places.start :]
    written = list(call["values"])
    for dim in reversed(after):
        if written:
            call.broadcast([dim], [written.pop()])
    joined = [written.pop() for _ in range(min(places.rank, len(written)))]
    call.broadcast(rest[: places.start], written)
    if len(places.masks) == 1 and not places.numbers and all(dim.size == 1 for dim in joined):
        for at, dim in zip(places.covered, places.masks[0], strict=True):
            call.equate(dims[at], dim)
        return [dims]
    indexed = [dims[at] for at in places.covered]
    for dim in itertools.chain(indexed, joined, *places.numbers, *places.masks):
        call.protect(dim, _REASON)
    return [dims]


_SPREADS = ("aten.expand", "aten.expand_as", "aten.broadcast_to")


@rule(
    "aten.masked_scatter",
    law="self(... a), mask(... 1), source(... a) -> (... a) where the mask is spread along a; else a barrier",
    samples=("T(2, 3, 4).masked_scatter(T(2, 3, 1) > 0, T(6, 4))",),
)
def masked_scatter(call: Call) -> list[list[Expr]]:
    """Chosen positions are filled from a list: rows stay rows where the mask takes or leaves them whole."""
    dims, mask, source = call["self"], call["mask"], call["source"]
    is_spread = bool(mask) and (mask[-1].size == 1 or _is_spread(call.graph, call.node.args["mask"].value))
    is_of_rows = bool(dims) and bool(source) and dims[-1].size == source[-1].size
    if not is_spread or not is_of_rows or len(mask) > len(dims):
        return call.barrier("it fills chosen positions one after the other from a list")
    for dim in (*dims[:-1], *mask[:-1], *source[:-1]):
        call.protect(dim, "it fills chosen rows one after the other from a list")
    call.broadcast([dims[-1]], [source[-1]], [mask[-1]])
    return [dims]


def _is_spread(graph: Graph, value: int) -> bool:
    """Whether a tensor holds the same numbers at all positions of its last dim, as it was made so."""
    node = graph.maker.get(value)
    while node is not None and node.op not in _SPREADS:
        source = first_operand(node)
        is_copy = Trait.MOVES | Trait.ROW_MAJOR in traits_of(node)
        same = source is not None and graph.values[source].shape == graph.values[value].shape
        if source is None or not (is_copy and same):
            return False
        value, node = source, graph.maker.get(source)
    source = None if node is None else first_operand(node)
    return source is not None and graph.values[source].shape[-1:] == (1,)


@rule(
    "aten.slice_scatter",
    law="self(... (a + b + c) ...), src(... b ...) -> (... (a + b + c) ...); the bounds follow",
    samples=("torch.slice_scatter(T(2, 8), T(2, 3), 1, 2, 5)",),
)
def slice_scatter(call: Call) -> list[list[Expr]]:
    """A copy in which a slice is replaced."""
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims))
    taken = list(dims)
    taken[at] = sliced(call, dims[at])
    for dim, other in zip(taken, call["src"], strict=True):
        call.equate(dim, other)
    return [dims]


@rule(
    "aten.select_scatter",
    law="self(... a ...), src(...) -> (... a ...): a stays",
    samples=("torch.select_scatter(T(2, 8, 3), T(2, 3), 1, 2)",),
)
def select_scatter(call: Call) -> list[list[Expr]]:
    """A copy in which one position is replaced."""
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], _REASON)
    call.broadcast([*dims[:at], *dims[at + 1 :]], call["src"])
    return [dims]
