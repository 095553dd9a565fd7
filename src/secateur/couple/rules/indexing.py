"""Look-ups by number: the looked-up dim stays, the others pass."""

from secateur.couple.call import Call
from secateur.couple.rule import rule
from secateur.graph.axes import Expr
from secateur.graph.node import Ref

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


@rule(
    "aten.index",
    law="self(... a b ...), indices(j), (j) -> (... j ...): what is indexed stays, the rest passes",
    samples=(
        "T(2, 3, 4)[:, torch.tensor([0, 2])]",
        "T(2, 3, 4)[torch.tensor([[0], [1]]), torch.tensor([[0, 2, 1]])]",
        "T(2, 3, 4)[torch.tensor([0, 1]), :, torch.tensor([3, 0])]",
    ),
)
def index(call: Call) -> list[list[Expr]]:
    """Indexing by integer tensors; a mask makes shapes that depend on numbers."""
    dims = call["self"]
    refs = [(at, ref) for at, ref in enumerate(call.arg("indices")) if isinstance(ref, Ref)]
    if any(call.graph.values[ref.value].dtype in ("bool", "uint8") for _, ref in refs):
        return call.barrier("indexing by a mask has no rule")
    for at, _ in refs:
        call.protect(dims[at], _REASON)
    joined = call.broadcast(*(call.findings.dims[ref.value] for _, ref in refs))
    places = [at for at, _ in refs]
    start = places[0] if places == list(range(places[0], places[0] + len(places))) else 0
    rest = [dim for at, dim in enumerate(dims) if at not in places]
    return [[*rest[:start], *joined, *rest[start:]]]


@rule(
    "aten.gather",
    law="self(... a ...), index(... j ...) -> (... j ...): a stays, the other dims are equal",
    samples=("torch.gather(T(2, 3), 1, (T(2, 2) > 0).long())",),
)
def gather(call: Call) -> list[list[Expr]]:
    """One look-up for each position of the index."""
    dims, result = call["self"], call["index"]
    at = call.dim(call.arg("dim"), len(dims))
    for place, (dim, other) in enumerate(zip(dims, result, strict=True)):
        if place == at:
            call.protect(dim, _REASON)
        elif dim.size == other.size:
            call.equate(dim, other)
        else:
            call.protect(dim, "only its first positions are looked up")
            call.protect(other, "only the first positions are looked up")
    return [result]
