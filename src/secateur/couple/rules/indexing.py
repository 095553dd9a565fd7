"""Look-ups by number: the looked-up dim stays, the others pass."""

from secateur.couple.call import Call
from secateur.couple.rule import rule
from secateur.graph.axes import Expr

_REASON = "its positions are addressed by number"


@rule(
    "aten.embedding",
    law="weight(v d), indices(...) -> (... d): v stays",
    samples=("F.embedding(torch.tensor([[0, 2], [1, 1]]), T(3, 4))",),
)
def embedding(call: Call) -> list[list[Expr]]:
    """Rows of a table."""
    rows, width = call["weight"]
    call.protect(rows, _REASON)
    return [[*call["indices"], width]]


@rule(
    "aten.index_select",
    law="self(... a ...), index(k) -> (... k ...): a stays",
    samples=("T(2, 3, 4).index_select(1, torch.tensor([0, 2]))",),
)
def index_select(call: Call) -> list[list[Expr]]:
    """Some positions of one dim."""
    dims = list(call["self"])
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], _REASON)
    for dim in call["index"]:
        call.protect(dim, _REASON)
    dims[at] = call.fixed(call.out_shape()[at], _REASON)
    return [dims]


@rule(
    "aten.roll",
    "aten.flip",
    law="the positions of the named dims change places, so those stay",
    samples={"aten.roll": "T(2, 3, 4).roll(1, dims=1)", "aten.flip": "T(2, 3).flip(1)"},
)
def reorder(call: Call) -> list[list[Expr]]:
    """Rotation and reversal."""
    dims = list(call["self"])
    for at in call.arg("dims") or range(len(dims)):
        call.protect(dims[at], "its positions change places")
        dims[at] = call.fixed(dims[at].size, "its positions change places")
    return [dims]
