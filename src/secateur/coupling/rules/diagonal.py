"""Diagonals: with no offset, rows and columns are the same axis; with one they are told apart by number.

diagonal x(... a a) -> (... a)        diag_embed x(... a) -> (... a a)        trace x(a a) -> ()
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr
from secateur.graph.trait import Trait

_OFFSET = "rows and columns are told apart by number"


def _tie(call: Call, row: Expr, column: Expr, offset: int) -> Expr | None:
    """The axis of a square's main diagonal; None, and both protected, for every other one."""
    if offset == 0 and row.size == column.size:
        call.equate(row, column)
        return row
    for dim in (row, column):
        call.protect(dim, _OFFSET)
    return None


@rule(
    "aten.diagonal",
    "aten.linalg_diagonal",
    law="x(... a a) -> (... a); off the main diagonal, or of no square, both stay",
    samples={
        "aten.diagonal": "T(2, 3, 4, 3).diagonal(dim1=1, dim2=3)",
        "aten.linalg_diagonal": "torch.linalg.diagonal(T(2, 3, 3))",
    },
    traits=Trait.MOVES | Trait.VIEW,
)
def diagonal(call: Call) -> list[list[Expr]]:
    """One entry for each row."""
    dims = call["self" if "self" in call else "A"]
    first, second = (call.dim(call.arg(name), len(dims)) for name in ("dim1", "dim2"))
    held = _tie(call, dims[first], dims[second], call.arg("offset"))
    rest = [dim for at, dim in enumerate(dims) if at not in (first, second)]
    return [[*rest, call.fixed(call.out_shape()[-1], _OFFSET) if held is None else held]]


@rule(
    "aten.diag_embed",
    law="x(... a) -> (... a a), zeros elsewhere; off the main diagonal a stays",
    samples=("torch.diag_embed(T(2, 3))", "torch.diag_embed(T(2, 3), dim1=0, dim2=2)"),
)
def diag_embed(call: Call) -> list[list[Expr]]:
    """Vectors along diagonals."""
    *rest, held = call["self"]
    shape = call.out_shape()
    places = {call.dim(call.arg(name), len(shape)) for name in ("dim1", "dim2")}
    if call.arg("offset"):
        call.protect(held, _OFFSET)
        held = call.fixed(shape[min(places)], _OFFSET)
    others = iter(rest)
    return [[held if at in places else next(others) for at in range(len(shape))]]


@rule(
    "aten.diag",
    law="x(a) -> (a a), x(a a) -> (a); off the main diagonal, or of no square, all stay",
    samples=("torch.diag(T(3))", "torch.diag(T(3, 3))"),
)
def diag(call: Call) -> list[list[Expr]]:
    """A vector as a diagonal, or the other way round."""
    dims = call["self"]
    held = _tie(call, dims[0], dims[-1], call.arg("diagonal"))
    return [[call.fixed(size, _OFFSET) if held is None else held for size in call.out_shape()]]


@rule(
    "aten.trace",
    law="x(a a) -> (): zeros add nothing",
    samples=("T(3, 3).trace()",),
)
def trace(call: Call) -> list[list[Expr]]:
    """The sum of the diagonal."""
    row, column = call["self"]
    _tie(call, row, column, 0)
    return [[]]


@rule(
    "aten.fill_diagonal",
    law="x(a a) -> (a a); of no square both stay",
    samples=("T(3, 3).clone().fill_diagonal_(1.5)",),
)
def fill_diagonal(call: Call) -> list[list[Expr]]:
    """A number along the diagonal of a square, or of a cube."""
    first, *others = dims = call["self"]
    for other in others:
        _tie(call, first, other, 0)
    return [dims]


@rule(
    "aten.diagonal_scatter",
    law="self(... a a), src(... a) -> (... a a); off the main diagonal, or of no square, a stays",
    samples=("torch.diagonal_scatter(T(2, 3, 3), T(2, 3), dim1=1, dim2=2)",),
)
def diagonal_scatter(call: Call) -> list[list[Expr]]:
    """A copy with another diagonal."""
    dims = call["self"]
    first, second = (call.dim(call.arg(name), len(dims)) for name in ("dim1", "dim2"))
    held = _tie(call, dims[first], dims[second], call.arg("offset"))
    *rest, source = call["src"]
    for dim, other in zip(
        [dims[at] for at in range(len(dims)) if at not in (first, second)], rest, strict=True
    ):
        call.equate(dim, other)
    if held is None:
        call.protect(source, _OFFSET)
    else:
        call.equate(held, source)
    return [dims]
