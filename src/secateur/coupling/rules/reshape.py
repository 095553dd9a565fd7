"""Reshaping: the dims are matched into the smallest blocks of equal product, each factored from the inside.

view   (2 x 6, 4) -> (12, 4):   block (2 6) = (12),  block (4) = (4)
"""

from collections.abc import Iterator, Sequence
from math import prod

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr, MisalignedError, axis, product
from secateur.graph.node import Node
from secateur.graph.trait import Trait
from secateur.graph.unify import factor


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Match two shapes of equal product into the smallest runs of equal product.

    Example:
        >>> list(blocks((2, 6, 4), (12, 4)))
        [(range(0, 2), range(0, 1)), (range(2, 3), range(1, 2))]
    """
    i = j = 0
    while i < len(before) or j < len(after):
        start_i, start_j = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while prod(before[start_i:i]) != prod(after[start_j:j]):
            if (prod(before[start_i:i]) < prod(after[start_j:j]) or j == len(after)) and i < len(before):
                i += 1
            elif j < len(after):
                j += 1
            else:
                raise ValueError(f"shapes {list(before)} and {list(after)} differ in size")
        yield range(start_i, i), range(start_j, j)


def reshape(call: Call, dims: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """The dims of a tensor read row-major in another shape."""
    if 0 in shape:
        return [call.fixed(size, "an empty tensor") for size in shape]
    result: list[Expr] = [ONE] * len(shape)
    inputs = [dim for dim in dims if dim.size != 1]
    outputs = [index for index, size in enumerate(shape) if size != 1]
    sizes = [shape[index] for index in outputs]
    for before, after in blocks([dim.size for dim in inputs], sizes):
        pieces = _refactor(call, product(*(inputs[i] for i in before)), [sizes[j] for j in after])
        for j, piece in zip(after, pieces, strict=True):
            result[outputs[j]] = piece
    return result


def _refactor(call: Call, block: Expr, sizes: Sequence[int]) -> list[Expr]:
    if len(sizes) == 1:
        return [block]
    rest, pieces = block, []
    try:
        for size in reversed(sizes[1:]):
            rest, piece = factor(rest, size, call.node)
            pieces.append(piece)
    except MisalignedError as error:
        reason = f"{block!r} cannot be read as {'x'.join(map(str, sizes))} ({error})"
        call.protect(block, reason)
        return [call.fixed(size, reason) for size in sizes]
    return [rest, *reversed(pieces)]


def _follow_sizes(call: Call, name: str, dims: Sequence[Expr], start: int = 0) -> None:
    """The integers of a shape argument are the sizes of the result's dims."""
    sizes = call.arg(name)
    for index, dim in enumerate(dims):
        if not isinstance(sizes[index], int) or sizes[index] >= 0:
            call.literal((name, index + start), dim)


_SAME_ORDER = Trait.MOVES | Trait.ROW_MAJOR


def _keeps_numbers(node: Node) -> bool:
    """A view as another element type reads the same bits as other numbers."""
    return node.overload != "dtype"


_VIEWS = {
    "aten.view": (
        "T(2, 3).view(torch.float32)",
        "T(2, 6, 4).view(2, 3, 2, 4)",
        "T(2, 3, 4).view(6, 4)",
        "T(2, 3, 1, 1).view(2, -1)",
    ),
    "aten.reshape": ("T(2, 6, 4).reshape(2, 2, 3, 4)", "T(2, 3, 4).reshape(2, 1, 12)"),
    "aten._unsafe_view": ("torch.ops.aten._unsafe_view(T(2, 6), [2, 2, 3])",),
}

for _op, _samples in _VIEWS.items():

    @rule(
        _op,
        law="row-major reading in another shape; sizes follow",
        samples=_samples,
        traits=_SAME_ORDER | (Trait.PACKS if _op == "aten.reshape" else Trait.VIEW),
        traits_if=_keeps_numbers,
    )
    def view(call: Call) -> list[list[Expr]]:
        """A view by its sizes, or of the same bits as other numbers (`view.dtype`), more in the last dim."""
        if call.node.overload == "dtype":
            dims, size = list(call["self"]), call.out_shape()[-1]
            if size > dims[-1].size:
                dims[-1] = product(dims[-1], call.fixed(size // dims[-1].size, "parts of one number"))
            elif size < dims[-1].size:
                return call.barrier("parts of a number in the last dim are read as one")
            return [dims]
        dims = reshape(call, call["self"], call.out_shape())
        sizes = call.arg("size", call.arg("shape"))
        if isinstance(sizes, tuple):
            _follow_sizes(call, "size" if "size" in call.node.args else "shape", dims)
        return [dims]


@rule(
    "aten.flatten",
    "aten.view_as",
    "aten.reshape_as",
    "aten.ravel",
    law="row-major reading in another shape, computed at run time",
    samples={
        "aten.flatten": "torch.flatten(T(2, 3, 2, 2), 1)",
        "aten.view_as": "T(2, 3, 4).view_as(T(6, 4))",
        "aten.reshape_as": "T(2, 3, 4).reshape_as(T(6, 4))",
        "aten.ravel": "T(2, 3).ravel()",
    },
    traits={
        "aten.flatten": _SAME_ORDER | Trait.PACKS,
        "aten.view_as": _SAME_ORDER | Trait.VIEW,
        "aten.reshape_as": _SAME_ORDER | Trait.PACKS,
        "aten.ravel": _SAME_ORDER | Trait.PACKS,
    },
)
def flatten(call: Call) -> list[list[Expr]]:
    """A reshape that reads its sizes from tensors."""
    result = reshape(call, call["self"], call.out_shape())
    if "other" in call:
        call.broadcast(result, call["other"])
    return [result]


@rule(
    "aten.unflatten",
    law="one dim becomes several; sizes follow",
    samples=("T(2, 6).unflatten(1, (3, 2))", "T(2, 6).unflatten(1, (-1, 2))"),
    traits=_SAME_ORDER | Trait.VIEW,
)
def unflatten(call: Call) -> list[list[Expr]]:
    """The inverse of flatten."""
    dims = reshape(call, call["self"], call.out_shape())
    start = call.dim(call.arg("dim"), len(call["self"]))
    sizes = call.arg("sizes")
    for index, size in enumerate(sizes):
        if size >= 0:
            call.literal(("sizes", index), dims[start + index])
    return [dims]


@rule(
    "aten.squeeze",
    "aten.unsqueeze",
    law="dims of size one come and go",
    samples={"aten.squeeze": "T(2, 1, 3).squeeze(1)", "aten.unsqueeze": "T(2, 3).unsqueeze(1)"},
    traits=_SAME_ORDER | Trait.VIEW,
)
def squeeze(call: Call) -> list[list[Expr]]:
    """Only dims of size one are touched, so the others keep their order."""
    rest = iter(dim for dim in call["self"] if dim.size != 1)
    return [[ONE if size == 1 else next(rest) for size in call.out_shape()]]


_PERMUTATIONS = {
    "aten.permute": "T(2, 3, 4).permute(2, 0, 1)",
    "aten.transpose": "T(2, 3, 4).transpose(1, -1)",
    "aten.swapaxes": "T(2, 3, 4).swapaxes(1, 2)",
    "aten.swapdims": "T(2, 3, 4).swapdims(0, 2)",
    "aten.t": "T(2, 3).t()",
    "aten.mT": "T(2, 3, 4).mT",
    "aten.mH": "T(2, 3, 4).mH",
    "aten.adjoint": "T(2, 3, 4).adjoint()",
    "aten.numpy_T": "T(2, 3).T",
    "aten.matrix_H": "T(2, 3).H",
    "aten.movedim": "T(2, 3, 4).movedim(1, -1)",
    "aten.moveaxis": "T(2, 3, 4).moveaxis((0, 1), (2, 0))",
}


@rule(
    *_PERMUTATIONS,
    law="the dims change places",
    samples=_PERMUTATIONS,
    traits=Trait.MOVES | Trait.VIEW,
)
def permute(call: Call) -> list[list[Expr]]:
    """The dims in their new order."""
    dims = call["self"]
    rank = len(dims)
    order = list(range(rank))
    args = call.node.args
    if "dims" in args:
        order = [call.dim(dim, rank) for dim in args["dims"]]
    elif "source" in args:
        order = _moved(args["source"], args["destination"], rank)
    else:
        first = args.get("dim0", args.get("axis0", -2))
        second = args.get("dim1", args.get("axis1", -1))
        if rank > 1:
            a, b = call.dim(first, rank), call.dim(second, rank)
            order[a], order[b] = b, a
    return [[dims[index] for index in order]]


def _moved(source: int | Sequence[int], destination: int | Sequence[int], rank: int) -> list[int]:
    sources = [at % rank for at in ([source] if isinstance(source, int) else source)]
    targets = [at % rank for at in ([destination] if isinstance(destination, int) else destination)]
    placed = dict(zip(targets, sources, strict=True))
    others = iter(index for index in range(rank) if index not in sources)
    return [placed[index] if index in placed else next(others) for index in range(rank)]


@rule(
    "aten.expand",
    "aten.expand_as",
    "aten.broadcast_to",
    law="a dim of size one becomes a new axis, which later operators may bind",
    samples={
        "aten.expand": "T(2, 1, 3).expand(5, 2, 4, 3)",
        "aten.expand_as": "T(2, 1, 3).expand_as(T(2, 4, 3))",
        "aten.broadcast_to": "T(1, 3).broadcast_to(2, 3)",
    },
    traits=Trait.REPEATS | Trait.VIEW,
)
def expand(call: Call) -> list[list[Expr]]:
    """Copies along new positions; they hold no parameter."""
    dims, shape = call["self"], call.out_shape()
    padded = [ONE] * (len(shape) - len(dims)) + dims
    if "other" in call:
        return [call.broadcast(padded, call["other"])]
    result = [
        axis(size) if dim.size == 1 and size != 1 else dim for dim, size in zip(padded, shape, strict=True)
    ]
    _follow_sizes(call, "size", result)
    return [result]


@rule(
    "aten.repeat",
    "aten.tile",
    law="every dim becomes repeats times itself",
    samples={"aten.repeat": "T(2, 3).repeat(4, 1, 2)", "aten.tile": "torch.tile(T(2, 3), (2,))"},
    traits=Trait.REPEATS,
)
def repeat(call: Call) -> list[list[Expr]]:
    """Whole copies one after the other: product of a new axis and the old dim."""
    name = "repeats" if "repeats" in call.node.args else "dims"
    repeats = call.arg(name)
    rank = max(len(repeats), len(call["self"]))
    dims = [ONE] * (rank - len(call["self"])) + call["self"]
    missing = rank - len(repeats)
    result = []
    for index, dim in enumerate(dims):
        times = axis(repeats[index - missing]) if index >= missing else ONE
        if index >= missing:
            call.literal((name, index - missing), times)
        result.append(product(times, dim))
    return [result]


@rule(
    "aten.broadcast_tensors",
    law="operands broadcast, and every result has the dims of all",
    samples=("torch.broadcast_tensors(T(2, 1), T(3))",),
    traits=Trait.REPEATS,
)
def broadcast_tensors(call: Call) -> list[list[Expr]]:
    """Several tensors expanded to one shape."""
    shared = call.broadcast(*call.tensors("tensors"))
    return [shared for _ in call.out_shapes()]


@rule(
    "aten.meshgrid",
    law="x(a), y(b) -> (a b), (a b); indexing 'xy' exchanges the first two",
    samples=("torch.meshgrid(T(2), T(3), indexing='ij')", "torch.meshgrid(T(2), T(3), T(4), indexing='xy')"),
    traits=Trait.REPEATS,
)
def meshgrid(call: Call) -> list[list[Expr]]:
    """Every vector repeated along the others."""
    dims = [vector[0] if vector else ONE for vector in call.tensors("tensors")]
    if call.arg("indexing") == "xy" and len(dims) > 1:
        dims[:2] = dims[1::-1]
    return [dims for _ in call.out_shapes()]


@rule(
    "aten.repeat_interleave",
    law="every position of a dim is followed by its copies; repeats that a tensor holds fix the dim",
    samples=(
        "T(2, 3).repeat_interleave(2, dim=1)",
        "T(2, 3).repeat_interleave(2)",
        "T(2, 3).repeat_interleave(torch.tensor([2, 0, 1]), dim=1)",
    ),
    traits=Trait.REPEATS,
)
def repeat_interleave(call: Call) -> list[list[Expr]]:
    """Product of the old dim and a new axis; without a dim the tensor is flattened first."""
    repeats, at = call.arg("repeats"), call.arg("dim")
    if "self" not in call:
        return call.barrier("a tensor says how often each number is listed")
    dims = [product(*call["self"])] if at is None else list(call["self"])
    at = 0 if at is None else call.dim(at, len(dims))
    if isinstance(repeats, int):
        times = axis(repeats)
        call.literal(("repeats",), times)
        dims[at] = product(dims[at], times)
        if call.arg("output_size") is not None:
            call.literal(("output_size",), dims[at])
        return [dims]
    reason = "a tensor says how often each position is repeated"
    for dim in [dims[at], *call["repeats"]]:
        call.protect(dim, reason)
    dims[at] = call.fixed(call.out_shape()[at], reason)
    return [dims]


@rule(
    "aten.channel_shuffle",
    "aten.native_channel_shuffle",
    law="n (g c) ... -> n (c g) ...; g stays",
    samples={
        "aten.channel_shuffle": "F.channel_shuffle(T(2, 6, 3, 3), 2)",
        "aten.native_channel_shuffle": "torch.native_channel_shuffle(T(2, 6, 3, 3), 3)",
    },
    traits=Trait.MOVES,
)
def channel_shuffle(call: Call) -> list[list[Expr]]:
    """The groups of channels become the inner factor; the channels are always the second dim."""
    batch, channels, *spatial = call["self"]
    try:
        groups, width = factor(channels, channels.size // call.arg("groups"), call.node)
    except MisalignedError as error:
        call.protect(channels, str(error))
        return [[batch, call.fixed(channels.size, str(error)), *spatial]]
    call.protect(groups, "the number of shuffled groups is fixed")
    return [[batch, product(width, groups), *spatial]]


@rule(
    "aten.pixel_shuffle",
    "aten.pixel_unshuffle",
    law="(c r r) h w -> c (h r) (w r) and its inverse; r and the spatial dims stay",
    samples={
        "aten.pixel_shuffle": "F.pixel_shuffle(T(2, 12, 3, 3), 2)",
        "aten.pixel_unshuffle": "F.pixel_unshuffle(T(2, 3, 4, 4), 2)",
    },
    traits=Trait.MOVES,
)
def shuffle(call: Call) -> list[list[Expr]]:
    """Space to depth and back."""
    *batch, channels, height, width = call["self"]
    for dim in (height, width):
        call.protect(dim, "a spatial dim", structural=True)
    shape = call.out_shape()
    spatial = [call.fixed(size, "a spatial dim", structural=True) for size in shape[-2:]]
    if call.node.op == "aten.pixel_unshuffle":
        block = call.fixed(call.arg("downscale_factor") ** 2, "the pixels of a block", structural=True)
        return [[*batch, product(channels, block), *spatial]]
    try:
        outer, inner = factor(channels, call.arg("upscale_factor") ** 2, call.node)
        call.protect(inner, "the pixels of a block", structural=True)
    except MisalignedError as error:
        call.protect(channels, str(error))
        outer = call.fixed(shape[-3], str(error))
    return [[*batch, outer, *spatial]]
