"""Cutting along a dim: an axis splits into a sum of its pieces, and a sum into its terms."""

from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr, MisalignedError, total
from secateur.graph.node import Path
from secateur.graph.trait import Trait
from secateur.graph.unify import factor, split


def pieces(call: Call, dim: Expr, sizes: Sequence[int]) -> list[Expr]:
    """Cut a dim into consecutive pieces; where a cut does not align everything is protected."""
    found: list[Expr] = []
    rest = dim
    try:
        for size in sizes:
            piece, rest = split(rest, size, call.node)
            found.append(piece)
    except MisalignedError as error:
        call.protect(dim, str(error))
        return [call.fixed(size, str(error)) for size in sizes]
    return found


def _cut(call: Call, at: int | None = None) -> tuple[list[list[Expr]], list[Expr]]:
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims)) if at is None else at
    parts = pieces(call, dims[at], [shape[at] for shape in call.out_shapes()])
    return [[*dims[:at], part, *dims[at + 1 :]] for part in parts], parts


@rule(
    "aten.split_with_sizes",
    "aten.unsafe_split_with_sizes",
    law="x(... (a + b) ...) -> (... a ...), (... b ...); the sizes follow",
    samples={
        "aten.split_with_sizes": "torch.split_with_sizes(T(2, 7), [3, 4], dim=1)",
        "aten.unsafe_split_with_sizes": "torch.unsafe_split_with_sizes(T(2, 7), [3, 4], dim=1)",
    },
    traits=Trait.MOVES | Trait.VIEW,
)
def split_with_sizes(call: Call) -> list[list[Expr]]:
    """Pieces of given sizes."""
    outputs, parts = _cut(call)
    for index, part in enumerate(parts):
        call.literal(("split_sizes", index), part)
    return outputs


def _require_equal(call: Call, parts: Sequence[Expr]) -> None:
    """Pieces whose sizes are computed from the shape must keep equal counts."""
    if len({part.size for part in parts}) > 1:
        for part in parts:
            call.protect(part, "unequal pieces whose sizes are computed at run time")
    elif len(parts) > 1:
        call.balance(parts, "equal pieces")


@rule(
    "aten.split",
    "aten.chunk",
    "aten.unsafe_chunk",
    "aten.unsafe_split",
    law="equal pieces must keep equal counts, as their sizes are computed from the shape",
    samples={
        "aten.split": "torch.split(T(2, 6), 3, dim=1)",
        "aten.chunk": "torch.chunk(T(2, 6), 2, dim=1)",
        "aten.unsafe_chunk": "torch.unsafe_chunk(T(2, 6), 2, dim=1)",
        "aten.unsafe_split": "torch.unsafe_split(T(2, 6), 3, dim=1)",
    },
    traits=Trait.MOVES | Trait.VIEW,
)
def chunk(call: Call) -> list[list[Expr]]:
    """Pieces by their number or their common size."""
    sizes = call.arg("split_size", call.arg("split_sizes"))
    outputs, parts = _cut(call)
    if isinstance(sizes, tuple):
        for index, part in enumerate(parts):
            call.literal(("split_size" if "split_size" in call.node.args else "split_sizes", index), part)
        return outputs
    _require_equal(call, parts)
    if isinstance(sizes, int) and parts and parts[0].size == sizes:
        call.literal(("split_size",), parts[0])
    return outputs


_SPLITS = {
    "aten.tensor_split": "torch.tensor_split(T(2, 6), 3, dim=1)",
    "aten.hsplit": "torch.hsplit(T(2, 6), [1, 4])",
    "aten.vsplit": "torch.vsplit(T(6, 2), 2)",
    "aten.dsplit": "torch.dsplit(T(2, 3, 6), 3)",
}
_ALONG = {"aten.hsplit": 1, "aten.vsplit": 0, "aten.dsplit": 2}


@rule(
    *_SPLITS,
    law="pieces between bounds, which follow; equal pieces by their number must keep equal counts",
    samples=_SPLITS,
    traits=Trait.MOVES | Trait.VIEW,
)
def tensor_split(call: Call) -> list[list[Expr]]:
    """Pieces by their number or by the positions where each but the first begins."""
    rank = len(call["self"])
    at = min(_ALONG[call.node.op], rank - 1) if call.node.op in _ALONG else call.dim(call.arg("dim"), rank)
    outputs, parts = _cut(call, at)
    bounds = call.arg("indices")
    if isinstance(bounds, tuple):
        for index, bound in enumerate(bounds):
            _follow_bound(call, ("indices", index), bound, parts[: index + 1], parts[index + 1 :])
    elif "tensor_indices_or_sections" in call:
        for part in parts:
            call.protect(part, "pieces between bounds that a tensor holds")
    else:
        _require_equal(call, parts)
    return outputs


def _follow_bound(call: Call, path: Path, bound: int, left: list[Expr], right: list[Expr]) -> None:
    """A bound is the size of all that lies left of it, unless it counts from the end or lies beyond."""
    if bound == total(*left).size:
        call.literal(path, total(*left))
        return
    for part in [*left, *right]:
        call.protect(part, "cut at a bound that counts from the end or lies outside")


@rule(
    "aten.slice",
    "aten.narrow",
    law="x(... (a + b + c) ...) -> (... b ...); the bounds follow; x[::k] keeps the outer of (a k)",
    samples={
        "aten.slice": "T(2, 7)[:, 2:5] + 2 * T(2, 8)[:, 1:7:2]",
        "aten.narrow": "T(2, 7).narrow(1, 2, 3)",
    },
    traits=Trait.MOVES | Trait.VIEW,
)
def slice_(call: Call) -> list[list[Expr]]:
    """A run of positions, or every k-th."""
    dims = list(call["self"])
    at = call.dim(call.arg("dim"), len(dims))
    dims[at] = sliced(call, dims[at])
    return [dims]


def sliced(call: Call, dim: Expr) -> Expr:
    """What a call's bounds and step take of a dim; the bounds follow."""
    size, step = dim.size, call.arg("step", 1)
    if "start" in call:
        call.protect(dim, "cut at a place that a tensor holds")
        return call.fixed(call.arg("length"), "cut at a place that a tensor holds")
    given_start = call.arg("start") or 0
    given_end = call.arg("end")
    if "length" in call.node.args:
        given_end = given_start % size + call.arg("length") if size else 0
    start = min(max(given_start + size if given_start < 0 else given_start, 0), size)
    end = size if given_end is None else min(max(given_end + size if given_end < 0 else given_end, 0), size)
    if step != 1:
        return _strided(call, dim, start, end, step)
    if (start, end) == (0, size) and given_start >= 0:
        if "length" in call.node.args or given_end == size:
            call.literal(("length" if "length" in call.node.args else "end",), dim)
        return dim
    parts = pieces(call, dim, [start, max(end - start, 0), size - max(end, start)])
    _follow_bounds(call, parts, given_start, given_end, size)
    return parts[1]


def _follow_bounds(call: Call, parts: Sequence[Expr], start: int, end: int | None, size: int) -> None:
    """Bounds from the left are sizes; bounds from the right protect what they count."""
    left, middle, right = parts
    if start < 0:
        call.protect(total(middle, right), "counted from the end by a fixed number")
    elif start:
        call.literal(("start",), left)
    if "length" in call.node.args:
        call.literal(("length",), middle)
    elif end is not None and end < 0:
        call.protect(right, "counted from the end by a fixed number")
    elif end is not None and end <= size:
        call.literal(("end",), total(left, middle))


def _strided(call: Call, dim: Expr, start: int, end: int, step: int) -> Expr:
    taken = max(-((start - end) // step), 0)
    if dim.size % step == 0 and taken == dim.size // step and start < step:
        try:
            outer, inner = factor(dim, step, call.node)
        except MisalignedError as error:
            call.protect(dim, str(error))
        else:
            call.protect(inner, "every k-th position is taken")
            if call.arg("end") == dim.size:
                call.literal(("end",), dim)
            return outer
    else:
        call.protect(dim, "every k-th position is taken")
    return call.fixed(taken, "every k-th position is taken")


@rule(
    "aten.select",
    "aten.unbind",
    law="x(... a ...) -> (...): positions addressed by number stay",
    samples={"aten.select": "T(2, 3, 4)[:, 1]", "aten.unbind": "torch.unbind(T(2, 3, 4), dim=1)"},
    traits=Trait.MOVES | Trait.VIEW,
)
def select(call: Call) -> list[list[Expr]]:
    """One position of a dim, or all of them apart."""
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], "its positions are addressed by number")
    return [[*dims[:at], *dims[at + 1 :]] for _ in call.out_shapes()]
