"""Joining along a dim: concatenation is a sum of axes.

cat x(... a ...), y(... b ...) -> (... (a + b) ...)
"""

from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr, product, total
from secateur.graph.trait import Trait


def join(call: Call, tensors: Sequence[list[Expr]], at: int) -> list[Expr]:
    """The dims of tensors joined along one dim: there the sum, elsewhere they are equal."""
    result = list(tensors[0])
    for dims in tensors[1:]:
        for index, dim in enumerate(dims):
            if index != at:
                call.equate(result[index], dim)
    result[at] = total(*(dims[at] for dims in tensors))
    return result


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
    traits=Trait.MOVES,
)
def cat(call: Call) -> list[list[Expr]]:
    """The joined dim is the sum, the others are equal; empty one-dimensional tensors are skipped."""
    rank = len(call.out_shape())
    tensors = [dims for dims in call.tensors("tensors") if len(dims) == rank]
    return [join(call, tensors, call.dim(call.arg("dim"), rank))]


@rule(
    "aten.stack",
    law="equal dims, and a new dim that is addressed by number",
    samples=("torch.stack([T(2, 3), T(2, 3)], dim=1)",),
    traits=Trait.MOVES,
)
def stack(call: Call) -> list[list[Expr]]:
    """A new dim of as many positions as tensors."""
    tensors = call.tensors("tensors")
    result = call.broadcast(*tensors)
    at = call.dim(call.arg("dim"), len(result) + 1)
    result.insert(at, call.fixed(len(tensors), "the tensors of a stack", structural=True))
    return [result]


def _at_least(dims: list[Expr], rank: int) -> list[Expr]:
    """Dims of size one around: a vector is a row of a matrix and the middle dim of three."""
    if len(dims) >= rank:
        return dims
    if rank < 3:
        return [ONE] * (rank - len(dims)) + dims
    return [ONE, *(dims or [ONE]), ONE] if len(dims) < 2 else [*dims, ONE]


_STACKS = {
    "aten.hstack": "torch.hstack([T(2, 3), T(2, 4)])",
    "aten.vstack": "torch.vstack([T(2, 3), T(4, 3)])",
    "aten.row_stack": "torch.row_stack([T(3), T(2, 3)])",
    "aten.dstack": "torch.dstack([T(2, 3), T(2, 3, 4)])",
    "aten.column_stack": "torch.column_stack([T(2), T(2, 3)])",
}


@rule(
    *_STACKS,
    law="cat along the first, second or third dim, after dims of size one",
    samples=_STACKS,
    traits=Trait.MOVES,
)
def stack_along(call: Call) -> list[list[Expr]]:
    """Concatenation along a dim that the name tells; vectors gain dims first."""
    tensors = call.tensors("tensors")
    name = call.node.op.removeprefix("aten.")
    if name == "column_stack":
        return [join(call, [dims if len(dims) > 1 else [*(dims or [ONE]), ONE] for dims in tensors], 1)]
    if name == "hstack":
        tensors = [_at_least(dims, 1) for dims in tensors]
        return [join(call, tensors, 0 if len(tensors[0]) == 1 else 1)]
    rank, at = (3, 2) if name == "dstack" else (2, 0)
    return [join(call, [_at_least(dims, rank) for dims in tensors], at)]


_AT_LEAST = {f"aten.atleast_{rank}d": f"torch.atleast_{rank}d(T(3))" for rank in (1, 2, 3)}


@rule(
    *_AT_LEAST,
    law="dims of size one come before (atleast_3d: and after)",
    samples=_AT_LEAST,
    traits=Trait.MOVES | Trait.ROW_MAJOR | Trait.VIEW,
)
def at_least(call: Call) -> list[list[Expr]]:
    """One tensor, or each of several."""
    rank = int(call.node.op.removesuffix("d")[-1])
    return [_at_least(dims, rank) for _, dims in call.operands()]


@rule(
    "aten.block_diag",
    law="x(a b), y(c d) -> ((a + c) (b + d)), zeros elsewhere",
    samples=("torch.block_diag(T(2, 3), T(3, 2))", "torch.block_diag(T(2, 3), T(4))"),
)
def block_diag(call: Call) -> list[list[Expr]]:
    """Blocks along the diagonal; a vector is a row."""
    tensors = [_at_least(dims, 2) for dims in call.tensors("tensors")]
    return [[total(*(dims[at] for dims in tensors)) for at in (0, 1)]]


@rule(
    "aten.cartesian_prod",
    law="x(a), y(b) -> ((a b) 2): every pair",
    samples=("torch.cartesian_prod(T(2), T(3))", "torch.cartesian_prod(T(3))"),
    traits=Trait.REPEATS,
)
def cartesian_product(call: Call) -> list[list[Expr]]:
    """Every combination of one entry of each vector; of one vector, itself."""
    vectors = [dims[0] for dims in call.tensors("tensors")]
    if len(vectors) == 1:
        return [vectors]
    return [[product(*vectors), call.fixed(len(vectors), "the vectors of a product", structural=True)]]


@rule(
    "aten.flatten_dense_tensors",
    law="x(a b), y(c d) -> (((a b) + (c d))): row-major, one after the other",
    samples=("torch.ops.aten.flatten_dense_tensors([T(2, 3), T(4)])",),
    traits=Trait.MOVES,
)
def flatten_dense(call: Call) -> list[list[Expr]]:
    """All tensors as one vector."""
    return [[total(*(product(*dims) for dims in call.tensors("tensors")))]]
