"""Joining and cutting along a dim: concatenation is a sum of axes, and cutting splits the sum again."""

from collections.abc import Sequence

from secateur.couple.call import Call
from secateur.couple.rule import rule
from secateur.graph.axes import Expr, MisalignedError, total
from secateur.graph.unify import factor, split


@rule(
    "aten.cat",
    "aten.concat",
    "aten.concatenate",
    law="cat x(... a ...), y(... b ...) -> (... (a + b) ...)",
    samples={
        "aten.cat": "torch.cat([T(2, 3, 4), T(2, 5, 4)], dim=1)",
        "aten.concat": "torch.concat([T(2, 3), T(1, 3)])",
        "aten.concatenate": "torch.concatenate([T(2, 3), T(2, 1)], dim=-1)",
    },
)
def cat(call: Call) -> list[list[Expr]]:
    """The joined dim is the sum, the others are equal; empty one-dimensional tensors are skipped."""
    rank = len(call.out_shape())
    tensors = [dims for dims in call.tensors("tensors") if len(dims) == rank]
    at = call.dim(call.arg("dim"), rank)
    result = list(tensors[0])
    for dims in tensors[1:]:
        for index, dim in enumerate(dims):
            if index != at:
                call.equate(result[index], dim)
    result[at] = total(*(dims[at] for dims in tensors))
    return [result]


@rule(
    "aten.stack",
    law="equal dims, and a new dim that is addressed by number",
    samples=("torch.stack([T(2, 3), T(2, 3)], dim=1)",),
)
def stack(call: Call) -> list[list[Expr]]:
    """A new dim of as many positions as tensors."""
    tensors = call.tensors("tensors")
    result = call.broadcast(*tensors)
    at = call.dim(call.arg("dim"), len(result) + 1)
    result.insert(at, call.fixed(len(tensors), "the tensors of a stack", structural=True))
    return [result]


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


def _cut(call: Call) -> tuple[list[list[Expr]], list[Expr]]:
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims))
    parts = pieces(call, dims[at], [shape[at] for shape in call.out_shapes()])
    return [[*dims[:at], part, *dims[at + 1 :]] for part in parts], parts


@rule(
    "aten.split_with_sizes",
    law="x(... (a + b) ...) -> (... a ...), (... b ...); the sizes follow",
    samples=("torch.split_with_sizes(T(2, 7), [3, 4], dim=1)",),
)
def split_with_sizes(call: Call) -> list[list[Expr]]:
    """Pieces of given sizes."""
    outputs, parts = _cut(call)
    for index, part in enumerate(parts):
        call.literal(("split_sizes", index), part)
    return outputs


@rule(
    "aten.split",
    "aten.chunk",
    "aten.tensor_split",
    "aten.unsafe_chunk",
    "aten.unsafe_split",
    law="equal pieces must keep equal counts, as their sizes are computed from the shape",
    samples={
        "aten.split": "torch.split(T(2, 6), 3, dim=1)",
        "aten.chunk": "torch.chunk(T(2, 6), 2, dim=1)",
        "aten.tensor_split": "torch.tensor_split(T(2, 6), 3, dim=1)",
        "aten.unsafe_chunk": "torch.unsafe_chunk(T(2, 6), 2, dim=1)",
        "aten.unsafe_split": "torch.unsafe_split(T(2, 6), 3, dim=1)",
    },
)
def chunk(call: Call) -> list[list[Expr]]:
    """Pieces by their number or their common size."""
    sizes = call.arg("split_size", call.arg("split_sizes"))
    if isinstance(sizes, tuple):
        outputs, parts = _cut(call)
        for index, part in enumerate(parts):
            call.literal(("split_size" if "split_size" in call.node.args else "split_sizes", index), part)
        return outputs
    outputs, parts = _cut(call)
    if len({part.size for part in parts}) > 1 or "indices" in call.node.args:
        for part in parts:
            call.protect(part, "unequal pieces whose sizes are computed at run time")
    elif len(parts) > 1:
        call.balance(parts, "equal pieces")
    if isinstance(sizes, int) and parts and parts[0].size == sizes:
        call.literal(("split_size",), parts[0])
    return outputs


@rule(
    "aten.slice",
    "aten.narrow",
    law="x(... (a + b + c) ...) -> (... b ...); the bounds follow; x[::k] keeps the outer of (a k)",
    samples={
        "aten.slice": "T(2, 7)[:, 2:5] + 2 * T(2, 8)[:, 1:7:2]",
        "aten.narrow": "T(2, 7).narrow(1, 2, 3)",
    },
)
def slice_(call: Call) -> list[list[Expr]]:
    """A run of positions, or every k-th."""
    dims = list(call["self"])
    at = call.dim(call.arg("dim"), len(dims))
    size, step = dims[at].size, call.arg("step", 1)
    given_start = call.arg("start") or 0
    given_end = call.arg("end")
    if "length" in call.node.args:
        given_end = given_start % size + call.arg("length") if size else 0
    start = min(max(given_start + size if given_start < 0 else given_start, 0), size)
    end = size if given_end is None else min(max(given_end + size if given_end < 0 else given_end, 0), size)
    if step != 1:
        dims[at] = _strided(call, dims[at], start, step)
        return [dims]
    if (start, end) == (0, size) and given_start >= 0:
        if "length" in call.node.args:
            call.literal(("length",), dims[at])
        return [dims]
    left, middle, right = pieces(call, dims[at], [start, max(end - start, 0), size - max(end, start)])
    _follow_bounds(call, (left, middle, right), given_start, given_end, size)
    dims[at] = middle
    return [dims]


def _follow_bounds(
    call: Call, parts: tuple[Expr, Expr, Expr], start: int, end: int | None, size: int
) -> None:
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
    elif end is not None and end < size:
        call.literal(("end",), total(left, middle))


def _strided(call: Call, dim: Expr, start: int, step: int) -> Expr:
    taken = call.out_shape()[call.dim(call.arg("dim"), len(call["self"]))]
    if dim.size % step == 0 and taken == dim.size // step and start < step:
        try:
            outer, inner = factor(dim, step, call.node)
        except MisalignedError as error:
            call.protect(dim, str(error))
        else:
            call.protect(inner, "every k-th position is taken")
            return outer
    else:
        call.protect(dim, "every k-th position is taken")
    return call.fixed(taken, "every k-th position is taken")


@rule(
    "aten.select",
    "aten.unbind",
    law="x(... a ...) -> (...): positions addressed by number stay",
    samples={"aten.select": "T(2, 3, 4)[:, 1]", "aten.unbind": "torch.unbind(T(2, 3, 4), dim=1)"},
)
def select(call: Call) -> list[list[Expr]]:
    """One position of a dim, or all of them apart."""
    dims = call["self"]
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], "its positions are addressed by number")
    return [[*dims[:at], *dims[at + 1 :]] for _ in call.out_shapes()]
