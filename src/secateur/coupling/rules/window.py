"""Windows over spatial dims: channels pass, or multiply with the pixels of a window.

im2col   x(n c h w) -> (n (c (p q)) (y x))        col2im   x(n (c (p q)) (y x)) -> (n c h w)
"""

from math import prod

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr, MisalignedError, product
from secateur.graph.trait import Trait
from secateur.graph.unify import factor

_SPATIAL = "a spatial dim"
_WINDOW = "the pixels of a window"


@rule(
    "aten.unfold",
    law="x(... a ...) -> (... y ... k): a is cut into windows of k, so it stays",
    samples=("T(2, 3, 8).unfold(2, 4, 2)", "T(2, 8, 3).unfold(1, 2, 2)"),
    traits=Trait.REPEATS | Trait.VIEW,
)
def unfold(call: Call) -> list[list[Expr]]:
    """Windows along one dim; their positions come last."""
    dims = list(call["self"])
    at = call.dim(call.arg("dimension"), len(dims))
    call.protect(dims[at], "cut into windows")
    dims[at] = call.fixed(call.out_shape()[at], "the windows of a dim")
    return [[*dims, call.fixed(call.out_shape()[-1], "the positions of a window")]]


@rule(
    "aten.im2col",
    law="x(n c h w) -> (n (c k) l): k pixels of a window, l windows; all but n and c stay",
    samples=("F.unfold(T(2, 3, 5, 5), 3)", "F.unfold(T(3, 5, 5), (2, 3), padding=1)"),
)
def im2col(call: Call) -> list[list[Expr]]:
    """Windows as columns."""
    *batch, channels, height, width = call["self"]
    for dim in (height, width):
        call.protect(dim, _SPATIAL, structural=True)
    pixels = call.fixed(prod(call.arg("kernel_size")), _WINDOW, structural=True)
    windows = call.fixed(call.out_shape()[-1], _SPATIAL, structural=True)
    return [[*batch, product(channels, pixels), windows]]


@rule(
    "aten.col2im",
    law="x(n (c k) l) -> (n c h w): k pixels of a window, l windows; all but n and c stay",
    samples=("F.fold(T(2, 12, 9), (4, 4), 2)", "F.fold(T(12, 4), (4, 4), 2, stride=2)"),
)
def col2im(call: Call) -> list[list[Expr]]:
    """Columns summed into an image."""
    *batch, columns, windows = call["self"]
    call.protect(windows, _SPATIAL, structural=True)
    shape = call.out_shape()
    try:
        channels, pixels = factor(columns, prod(call.arg("kernel_size")), call.node)
        call.protect(pixels, _WINDOW, structural=True)
    except MisalignedError as error:
        call.protect(columns, str(error))
        channels = call.fixed(shape[-3], str(error))
    return [[*batch, channels, *(call.fixed(size, _SPATIAL, structural=True) for size in shape[-2:])]]


_UNPOOLED = {
    "aten.max_unpool2d": (2, "F.max_unpool2d(T(2, 3, 2, 2), (T(2, 3, 2, 2) > 0).long(), 2)"),
    "aten.max_unpool3d": (3, "F.max_unpool3d(T(2, 3, 2, 2, 2), (T(2, 3, 2, 2, 2) > 0).long(), 2)"),
}


@rule(
    *_UNPOOLED,
    law="self(... h w), indices(... h w) -> (... y x): the spatial dims are protected, the others pass",
    samples={op: sample for op, (_, sample) in _UNPOOLED.items()},
)
def unpool(call: Call) -> list[list[Expr]]:
    """Pixels put back where the indices say, within each map."""
    rank = _UNPOOLED[call.node.op][0]
    shared = call.broadcast(call["self"], call["indices"])
    for dim in shared[-rank:]:
        call.protect(dim, _SPATIAL, structural=True)
    spatial = [call.fixed(size, _SPATIAL, structural=True) for size in call.out_shape()[-rank:]]
    return [[*shared[:-rank], *spatial]]


_FRACTIONAL = {
    "aten.fractional_max_pool2d": (2, "F.fractional_max_pool2d({}, 2, output_size=3, _random_samples={})"),
    "aten.fractional_max_pool3d": (3, "F.fractional_max_pool3d({}, 2, output_size=3, _random_samples={})"),
}


@rule(
    *_FRACTIONAL,
    law="self(n c h w), random_samples(n c 2) -> (n c y x): the spatial dims are protected",
    samples={
        op: sample.format(f"T(2, 3{', 6' * rank})", f"T(2, 3, {rank}).sigmoid()")
        for op, (rank, sample) in _FRACTIONAL.items()
    },
    traits=Trait.RESAMPLES | Trait.SELECTS,
)
def fractional_pool(call: Call) -> list[list[Expr]]:
    """Pooling over windows that a random number for each map places."""
    rank = _FRACTIONAL[call.node.op][0]
    *maps, numbers = call["random_samples"]
    call.protect(numbers, "a number for each spatial dim", structural=True)
    rest, spatial = call["self"][:-rank], call["self"][-rank:]
    for dim in spatial:
        call.protect(dim, _SPATIAL, structural=True)
    call.broadcast(rest, maps[len(maps) - len(rest) :])
    return [
        [*rest, *(call.fixed(size, _SPATIAL, structural=True) for size in shape[-rank:])]
        for shape in call.out_shapes()
    ]
