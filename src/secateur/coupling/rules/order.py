"""Operators for which it counts who stands beside whom, or before: their axis stays.

diff y[j] = x[j + 1] - x[j]    cummax y[j] = max over i <= j of x[i]    tril y[i, j] = x[i, j] if j <= i
"""

from collections.abc import Iterable

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr
from secateur.graph.trait import Trait

_NUMBERED = "its positions are numbered"
_NEIGHBOURS = "its positions are compared with their neighbours"
_MOVED = "its positions change places"


def _fix(call: Call, dims: list[Expr], places: Iterable[int], reason: str) -> None:
    """Protect some dims and put fresh ones of the result's size in their place."""
    for at in places:
        call.protect(dims[at], reason)
        dims[at] = call.fixed(call.out_shape()[at], reason)


@rule(
    "aten.cummax",
    "aten.cummin",
    law="running extremes and where they are: positions of a are numbered, so a stays",
    samples={"aten.cummax": "T(2, 3).cummax(dim=1)", "aten.cummin": "T(2, 3).cummin(dim=1)"},
    traits=Trait.SELECTS,
)
def running_extreme(call: Call) -> list[list[Expr]]:
    """Values and their positions."""
    dims = list(call["self"])
    _fix(call, dims, [call.dim(call.arg("dim"), len(dims))] if dims else [], _NUMBERED)
    return [dims, dims]


@rule(
    "aten.msort",
    law="sorted along the first dim, which stays",
    samples=("T(2, 3).msort()",),
    traits=Trait.SELECTS,
)
def sort_rows(call: Call) -> list[list[Expr]]:
    """Values alone."""
    dims = list(call["self"])
    _fix(call, dims, [0], _MOVED)
    return [dims]


@rule(
    "aten.diff",
    law="x(... a) -> (... b): neighbours are subtracted, so a stays",
    samples=("T(2, 4).diff(dim=1)", "T(2, 4).diff(n=2, prepend=T(2, 1), append=T(2, 3))"),
)
def diff(call: Call) -> list[list[Expr]]:
    """Differences along a dim, with positions put before and after it."""
    dims = list(call["self"])
    at = call.dim(call.arg("dim"), len(dims))
    for name in ("prepend", "append"):
        if name in call:
            more = call[name]
            call.protect(more[at], _NEIGHBOURS)
            call.broadcast(dims[:at], more[:at])
            call.broadcast(dims[at + 1 :], more[at + 1 :])
    _fix(call, dims, [at], _NEIGHBOURS)
    return [dims]


_INTEGRALS = {
    "aten.trapezoid": "torch.trapezoid(T(2, 4), dim=1)",
    "aten.trapz": "torch.trapz(T(2, 4), dim=1)",
    "aten.cumulative_trapezoid": "torch.cumulative_trapezoid(T(2, 4), dim=1)",
}


@rule(*_INTEGRALS, law="neighbours along a are averaged, so a stays", samples=_INTEGRALS)
def trapezoid(call: Call) -> list[list[Expr]]:
    """Integrals over equal steps; over given ones is a barrier."""
    if "x" in call:
        return call.barrier("an integral over steps that a tensor holds")
    dims = list(call["y"])
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], _NEIGHBOURS)
    shape = call.out_shape()
    steps = [call.fixed(shape[at], _NEIGHBOURS)] if len(shape) == len(dims) else []
    return [[*dims[:at], *steps, *dims[at + 1 :]]]


_TURNED = {
    "aten.roll": "T(2, 3, 4).roll(1, dims=1)",
    "aten.flip": "T(2, 3).flip(1)",
    "aten.fliplr": "T(2, 3, 4).fliplr()",
    "aten.flipud": "T(2, 3, 4).flipud()",
    "aten.fft_fftshift": "torch.fft.fftshift(T(2, 3), dim=1)",
    "aten.fft_ifftshift": "torch.fft.ifftshift(T(2, 3), dim=1)",
}
_ALONG = {"aten.fliplr": 1, "aten.flipud": 0}


@rule(
    *_TURNED,
    law="the positions of the named dims change places, so those stay",
    samples=_TURNED,
    traits=Trait.MOVES,
)
def reorder(call: Call) -> list[list[Expr]]:
    """Rotation and reversal."""
    dims = list(call["self"])
    given = _ALONG.get(call.node.op, call.arg("dims", call.arg("dim")))
    named = given if isinstance(given, tuple) else () if given is None else (given,)
    _fix(call, dims, dict.fromkeys(call.dim(at, len(dims)) for at in named or range(len(dims))), _MOVED)
    return [dims]


@rule(
    "aten.rot90",
    law="turned in the plane of two dims, which stay",
    samples=("torch.rot90(T(5, 2, 3), 1, (1, 2))", "torch.rot90(T(5, 2, 3), 2, (-1, 0))"),
    traits=Trait.MOVES,
)
def turn(call: Call) -> list[list[Expr]]:
    """Quarter turns."""
    dims = list(call["self"])
    _fix(call, dims, [call.dim(at, len(dims)) for at in call.arg("dims")], _MOVED)
    return [dims]


@rule(
    "aten.tril",
    "aten.triu",
    law="self(... a b): a and b are compared by number, so they stay",
    samples={"aten.tril": "torch.tril(T(2, 3, 3))", "aten.triu": "torch.triu(T(2, 3, 4), 1)"},
)
def triangle(call: Call) -> list[list[Expr]]:
    """The part of a matrix on one side of a diagonal."""
    dims = call["self"]
    for dim in dims[-2:]:
        call.protect(dim, "rows and columns are compared by number")
    return [dims]
