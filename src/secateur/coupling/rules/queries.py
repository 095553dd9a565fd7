"""Questions that Python asks of tensors; they make none.

A single number has no positions. Where the model's path depends on it, the check follows the path.
"""

from collections.abc import Iterable

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr

_READ = {
    "aten.item": "(T(2, 3).sum().item(), T(2, 3).sin())[1]",
    "aten._local_scalar_dense": "(torch.ops.aten._local_scalar_dense(T(2, 3).sum()), T(2, 3).sin())[1]",
    "aten.is_nonzero": "T(2, 3).sin() if T(2, 3).sum() else T(2, 3)",
}
_COMPARED = {
    "aten.is_same_size": "(torch.ops.aten.is_same_size(T(2, 3), T(2, 3)), T(2, 3).sin())[1]",
    "aten._has_compatible_shallow_copy_type": (
        "(torch._has_compatible_shallow_copy_type(T(2, 3), T(2, 3)), T(2, 3).sin())[1]"
    ),
}


def _nothing(outputs: Iterable[object]) -> list[list[Expr]]:
    return [[] for _ in outputs]


@rule(*_READ, law="a single number is read: it has no positions", samples=_READ)
def read(call: Call) -> list[list[Expr]]:
    """A number that Python goes on with."""
    if any(dim.size != 1 for dim in call["self"]):
        return call.barrier("several numbers are read at once")
    return _nothing(call.node.outputs)


@rule(*_COMPARED, law="only the kinds or the shapes of tensors are compared", samples=_COMPARED)
def compare(call: Call) -> list[list[Expr]]:
    """What is said about tensors, not about their positions."""
    return _nothing(call.node.outputs)
