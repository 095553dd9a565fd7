"""Matrix norms and decompositions.

Rows and columns of zeros change no norm of order p >= 0, so there a cut is exact. A decomposition mixes all
rows and columns of a matrix: they stay, while a batch of matrices may lose some of its members.
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr

_MIXED = "a decomposition mixes its positions"

_NORMS = {
    "aten.linalg_norm": "torch.linalg.norm(T(2, 3, 4), dim=(1, 2))",
    "aten.linalg_matrix_norm": "torch.linalg.matrix_norm(T(2, 3, 4))",
    "aten.frobenius_norm": "torch.ops.aten.frobenius_norm(T(2, 3, 4), [1, 2], True)",
    "aten.nuclear_norm": "torch.ops.aten.nuclear_norm(T(2, 3, 4), [1, 2])",
}


@rule(
    *_NORMS,
    law="x(... a b) -> (...): zeros add nothing to a norm of order p >= 0; below it is a statistic over a, b",
    samples=_NORMS,
)
def norm(call: Call) -> list[list[Expr]]:
    """Norms of vectors and matrices; without a dim, of everything."""
    _, dims = next(call.operands())
    rank = len(dims)
    given = call.arg("dim")
    if given is None or given == ():
        reduced = set(range(rank))
    else:
        reduced = {call.dim(at, rank) for at in (given if isinstance(given, tuple) else (given,))}
    order = call.arg("ord")
    if isinstance(order, (int, float)) and order < 0:
        for at in reduced:
            call.renormalise(dims[at], "statistics are taken over it")
    if call.arg("keepdim"):
        return [[ONE if at in reduced else dim for at, dim in enumerate(dims)]]
    return [[dim for at, dim in enumerate(dims) if at not in reduced]]


_SINGLE = {
    "aten.det": "torch.det(T(2, 3, 3))",
    "aten.linalg_det": "torch.linalg.det(T(2, 3, 3))",
    "aten.linalg_slogdet": "torch.linalg.slogdet(T(2, 3, 3))",
    "aten.slogdet": "torch.slogdet(T(2, 3, 3))",
    "aten.logdet": "torch.logdet(T(2, 3, 3) @ T(2, 3, 3).mT)",
    "aten.linalg_svd": "torch.linalg.svd(T(2, 3, 4))",
    "aten.linalg_svdvals": "torch.linalg.svdvals(T(2, 3, 4))",
    "aten.svd": "torch.svd(T(2, 3, 4))",
    "aten.linalg_qr": "torch.linalg.qr(T(2, 3, 4))",
    "aten.linalg_eigh": "torch.linalg.eigh(T(2, 3, 3))",
    "aten.linalg_eigvalsh": "torch.linalg.eigvalsh(T(2, 3, 3))",
    "aten.linalg_pinv": "torch.linalg.pinv(T(2, 3, 4))",
    "aten.pinverse": "torch.pinverse(T(2, 3, 4))",
    "aten.linalg_matrix_exp": "torch.linalg.matrix_exp(T(2, 3, 3))",
    "aten.matrix_exp": "torch.matrix_exp(T(2, 3, 3))",
}


@rule(*_SINGLE, law="x(... a b) -> (... c d): rows and columns are mixed, so they stay", samples=_SINGLE)
def decompose(call: Call) -> list[list[Expr]]:
    """What is computed of each matrix alone."""
    _, dims = next(call.operands())
    *batch, row, column = dims
    for dim in (row, column):
        call.protect(dim, _MIXED)
    return [
        [*batch, *(call.fixed(size, _MIXED) for size in shape[len(batch) :])] for shape in call.out_shapes()
    ]
