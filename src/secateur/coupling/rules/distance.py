"""Distances and similarities: what is summed over lets zeros pass, unless an epsilon is added first.

cosine_similarity    x1 . x2 / (max(|x1|, eps) max(|x2|, eps)):   zeros add nothing
pairwise_distance    |x1 - x2 + eps|_p:                           a removed position adds eps^p
"""

from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr


def _reduce_pair(call: Call, one: Sequence[Expr], two: Sequence[Expr], at: Sequence[int]) -> list[Expr]:
    """Broadcast two operands and mark the dims that one of them repeats: its positions stay where they go."""
    shared = call.broadcast(one, two)
    padded = [[ONE] * (len(shared) - len(dims)) + list(dims) for dims in (one, two)]
    for place in at:
        if padded[0][place].size != padded[1][place].size:
            call.renormalise(shared[place], "statistics are taken over it")
    return shared


@rule(
    "aten.cosine_similarity",
    law="x1(... a), x2(... a) -> (...): zeros add nothing; of a repeated operand a statistic over a",
    samples=(
        "F.cosine_similarity(T(2, 3), T(2, 3))",
        "F.cosine_similarity(T(5, 2, 3), T(2, 1), dim=-1)",
        "F.cosine_similarity(T(5, 1, 3), T(2, 3), dim=2)",
    ),
)
def cosine_similarity(call: Call) -> list[list[Expr]]:
    """Sums along one dim."""
    rank = max(len(call["x1"]), len(call["x2"]))
    at = call.dim(call.arg("dim"), rank)
    shared = _reduce_pair(call, call["x1"], call["x2"], [at])
    return [shared[:at] + shared[at + 1 :]]


@rule(
    "aten.pairwise_distance",
    law="x1(... a), x2(... a) -> (...): a statistic over a, as eps is added to every position",
    samples=("F.pairwise_distance(T(2, 3), T(2, 3))", "F.pairwise_distance(T(2, 3), T(3), keepdim=True)"),
)
def pairwise_distance(call: Call) -> list[list[Expr]]:
    """The norm of a difference along the last dim."""
    shared = call.broadcast(call["x1"], call["x2"])
    call.renormalise(shared[-1], "statistics are taken over it")
    return [[*shared[:-1], ONE] if call.arg("keepdim") else shared[:-1]]


@rule(
    "aten.cdist",
    law="x1(... m a), x2(... n a) -> (... m n): zeros add nothing to a distance",
    samples=("torch.cdist(T(2, 3), T(4, 3))", "torch.cdist(T(5, 2, 3), T(5, 4, 3), p=1.0)"),
)
def cdist(call: Call) -> list[list[Expr]]:
    """The distance of every row of the one to every row of the other."""
    one, two = call["x1"], call["x2"]
    call.equate(one[-1], two[-1])
    return [[*call.broadcast(one[:-2], two[:-2]), one[-2], two[-2]]]


@rule(
    "aten.pdist",
    law="self(m a) -> (pairs of m): zeros add nothing to a distance, m stays",
    samples=("F.pdist(T(4, 3))",),
)
def pdist(call: Call) -> list[list[Expr]]:
    """The distance of every two rows."""
    call.protect(call["self"][0], "its positions are compared in pairs")
    return [[call.fixed(call.out_shape()[0], "pairs of rows")]]


@rule(
    "aten.dist",
    law="self(...), other(...) -> (): zeros add nothing to a norm of order p >= 0",
    samples=("torch.dist(T(2, 3), T(2, 3))", "torch.dist(T(2, 3), T(3), p=1.0)"),
)
def dist(call: Call) -> list[list[Expr]]:
    """The norm of a difference."""
    rank = max(len(call["self"]), len(call["other"]))
    shared = _reduce_pair(call, call["self"], call["other"], range(rank))
    if call.arg("p") < 0:
        for dim in shared:
            call.renormalise(dim, "statistics are taken over it")
    return [[]]
