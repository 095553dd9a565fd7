"""Products of more than two operands, of vectors, and with terms added: what `matrix` does not hold.

bilinear   y[..., o] = sum over i, j of  u[..., i] * w[o, i, j] * v[..., j]  +  b[o]
kron       y[(a c), (b d)] = u[a, b] * v[c, d]
"""

from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import equation, rule
from secateur.graph.axes import ONE, Expr, product

equation("aten.ger", "self(m), vec2(o) -> (m o)", macs="m o", samples=("torch.ger(T(2), T(3))",))
equation("aten.vdot", "self(i), other(i) -> ()", macs="i", samples=("torch.vdot(T(3), T(3))",))
equation(
    "aten.bilinear",
    "input1(... i), input2(... j), weight(o i j), bias(o) -> (... o)",
    macs="... o i j",
    samples=("F.bilinear(T(2, 3), T(2, 4), T(5, 3, 4), T(5))", "F.bilinear(T(3), T(4), T(5, 3, 4))"),
)


@rule(
    "aten.inner",
    law="self(a i), other(b i) -> (a b); any number of dims a and b",
    macs="a b i",
    samples=("torch.inner(T(2, 3), T(4, 3))", "torch.inner(T(3), T(3))"),
)
def inner(call: Call) -> list[list[Expr]]:
    """Dot products of all pairs of last rows; a number scales the other operand."""
    one, two = call["self"], call["other"]
    if not one or not two:
        return [one + two]
    return _contract(call, [len(one) - 1], [len(two) - 1])


@rule(
    "aten.tensordot",
    law="self(a i), other(i b) -> (a b); the named dims i are equal and summed over",
    macs="a b i",
    samples=(
        "torch.tensordot(T(2, 3, 4), T(3, 4, 5), 2)",
        "torch.tensordot(T(2, 3, 4), T(4, 5, 2), ([0, 2], [2, 0]))",
    ),
)
def tensordot(call: Call) -> list[list[Expr]]:
    """A matrix product over any dims."""
    ranks = len(call["self"]), len(call["other"])
    ours = [call.dim(at, ranks[0]) for at in call.arg("dims_self")]
    theirs = [call.dim(at, ranks[1]) for at in call.arg("dims_other")]
    return _contract(call, ours, theirs)


def _contract(call: Call, ours: Sequence[int], theirs: Sequence[int]) -> list[list[Expr]]:
    one, two = call["self"], call["other"]
    for i, j in zip(ours, theirs, strict=True):
        call.equate(one[i], two[j])
        call.findings.contracted |= {(call.node.index, "self", i), (call.node.index, "other", j)}
    rest = [dim for at, dim in enumerate(two) if at not in theirs]
    call.count_macs(*one, *rest)
    return [[dim for at, dim in enumerate(one) if at not in ours] + rest]


@rule(
    "aten.linalg_vecdot",
    law="x(... i), y(... i) -> (...); broadcast",
    macs="... i",
    samples=("torch.linalg.vecdot(T(2, 3), T(3))", "torch.linalg.vecdot(T(2, 3), T(2, 3), dim=0)"),
)
def vecdot(call: Call) -> list[list[Expr]]:
    """A dot product along one dim of both."""
    shared = call.broadcast(call["x"], call["y"])
    at = call.dim(call.arg("dim"), len(shared))
    call.count_macs(*shared)
    return [shared[:at] + shared[at + 1 :]]


_ADDED = {
    "aten.addbmm": ("batch1", "batch2", "torch.addbmm(T(3, 5), T(2, 3, 4), T(2, 4, 5))"),
    "aten.addr": ("vec1", "vec2", "torch.addr(T(2, 3), T(2), T(3))"),
}


@rule(
    *_ADDED,
    law="self + batch1(b m i) @ batch2(b i o), summed over b and i; addr: self + vec1(m) vec2(o)",
    samples={op: sample for op, (_, _, sample) in _ADDED.items()},
    macs="b m i o",
)
def added(call: Call) -> list[list[Expr]]:
    """A product that is added to a tensor, which is broadcast to the result."""
    names = _ADDED[call.node.op.removesuffix("_")]
    one, two = call[names[0]], call[names[1]]
    if len(one) == 1:
        result = [one[0], two[0]]
    else:
        call.equate(one[0], two[0])
        call.equate(one[2], two[1])
        result = [one[1], two[2]]
    call.count_macs(*one, two[-1])
    return [call.broadcast(result, call["self"])]


@rule(
    "aten.linalg_multi_dot",
    law="x(m i), y(i j), ... -> (m o); MACs counted from left to right",
    samples=("torch.linalg.multi_dot([T(2, 3), T(3, 4), T(4, 5)])",),
    macs="m i j + m j o",
)
def chain(call: Call) -> list[list[Expr]]:
    """A chain of matrices; the first and the last may be vectors."""
    first, *others = call.tensors("tensors")
    rows, inner = first if len(first) > 1 else (ONE, first[0])
    for dims in others:
        call.equate(inner, dims[0])
        outer = dims[1] if len(dims) > 1 else ONE
        call.count_macs(rows, inner, outer)
        inner = outer
    return [([rows] if len(first) > 1 else []) + ([inner] if len(others[-1]) > 1 else [])]


@rule(
    "aten._trilinear",
    law="the product of three operands, broadcast after dims of size one, summed over the named dims",
    samples=("torch._trilinear(T(2, 3), T(2, 4), T(5, 3, 4), [1, 3], [1, 2], [0], [2, 3])",),
    macs="...",
)
def trilinear(call: Call) -> list[list[Expr]]:
    """What bilinear layers are made of."""
    operands = [
        _expanded(call[f"i{number}"], [int(at) for at in call.arg(f"expand{number}")]) for number in (1, 2, 3)
    ]
    shared = call.broadcast(*operands)
    call.count_macs(*shared)
    summed = {call.dim(at, len(shared)) for at in call.arg("sumdim")}
    return [[dim for at, dim in enumerate(shared) if at not in summed]]


def _expanded(dims: list[Expr], places: Sequence[int]) -> list[Expr]:
    dims = list(dims)
    for at in places:
        dims.insert(at, ONE)
    return dims


@rule(
    "aten._grouped_mm",
    law="self(m i), mat2(e i o), offs(e) -> (m o); rows come in runs, one an expert, so m and e stay; the "
    "kernel wants strides of whole 16 bytes",
    macs="m i o",
    samples=("torch._grouped_mm(T(6, 8).float(), T(2, 8, 12).float(), offs=torch.tensor([2, 6]).int())",),
)
def grouped_product(call: Call) -> list[list[Expr]]:
    """Every run of rows times the matrix of its expert."""
    if len(call["self"]) != 2 or len(call["mat2"]) != 3 or "bias" in call:
        return call.barrier("grouped products but of rows by experts have no rule")
    (rows, inner), (experts, other, outer) = call["self"], call["mat2"]
    for dim in (rows, experts, *call["offs"]):
        call.protect(dim, "rows are grouped by number")
    call.equate(inner, other)
    elements = 8 if "16" in call.graph.values[call.node.args["mat2"].value].dtype else 4
    for dim in (inner, outer):
        call.multiple(dim, elements)
    call.findings.contracted |= {(call.node.index, "self", 1), (call.node.index, "mat2", 1)}
    call.count_macs(rows, inner, outer)
    return [[rows, outer]]


@rule(
    "aten.cross",
    "aten.linalg_cross",
    law="x(... 3), y(... 3) -> (... 3), broadcast: the three coordinates stay",
    samples={
        "aten.cross": "torch.cross(T(2, 3, 4), T(2, 3, 4), dim=1)",
        "aten.linalg_cross": "torch.linalg.cross(T(1, 4, 3), T(2, 4, 3))",
    },
)
def cross(call: Call) -> list[list[Expr]]:
    """Vectors at right angles; without a dim the first of size three is meant: none before may get there."""
    (_, one), (_, two) = call.operands()
    shared = call.broadcast(one, two)
    given = call.arg("dim")
    sizes = [dim.size for dim in shared]
    at = sizes.index(3) if given is None else call.dim(given, len(shared))
    for dim in shared[: at + 1] if given is None else [shared[at]]:
        call.protect(dim, "coordinates are addressed by number")
    return [shared]


@rule(
    "aten.kron",
    law="self(a b), other(c d) -> ((a c) (b d))",
    samples=("torch.kron(T(2), T(3))", "torch.kron(T(2, 3), T(4))"),
)
def kron(call: Call) -> list[list[Expr]]:
    """Every position of the one times the whole of the other."""
    one, two = call["self"], call["other"]
    rank = max(len(one), len(two))
    padded = [[ONE] * (rank - len(dims)) + dims for dims in (one, two)]
    return [[product(*pair) for pair in zip(*padded, strict=True)]]
