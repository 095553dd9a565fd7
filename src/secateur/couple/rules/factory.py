"""Tensors made from nothing: constant ones may follow any axis, numbered or random ones may not."""

from secateur.couple.call import Call
from secateur.couple.rule import rule
from secateur.graph.axes import Expr, axis

_CONSTANT = {
    "aten.zeros": "torch.zeros(2, 3)",
    "aten.ones": "torch.ones(2, 3)",
    "aten.full": "torch.full((2, 3), 1.5)",
    "aten.empty": "torch.empty(2, 3).fill_(1.0)",
    "aten.new_zeros": "T(1).new_zeros((2, 3))",
    "aten.new_ones": "T(1).new_ones((2, 3))",
    "aten.new_full": "T(1).new_full((2, 3), 2.0)",
    "aten.new_empty": "T(1).new_empty((2, 3)).fill_(0.0)",
}
_NUMBERED = {
    "aten.arange": "torch.arange(4)",
    "aten.linspace": "torch.linspace(0, 1, 4)",
    "aten.eye": "torch.eye(3)",
    "aten.rand": "torch.rand(2)",
    "aten.randn": "torch.randn(2)",
    "aten.scalar_tensor": "torch.ops.aten.scalar_tensor(1.0)",
}


@rule(*_CONSTANT, law="-> (a b ...): every position is alike; the sizes follow", samples=_CONSTANT)
def constant(call: Call) -> list[list[Expr]]:
    """Zeros, ones and other constants."""
    dims = [axis(size) for size in call.out_shape()]
    for index, dim in enumerate(dims):
        call.literal(("size", index), dim)
    return [dims]


@rule(*_NUMBERED, law="-> (a b ...): every position has a number of its own, so all stay", samples=_NUMBERED)
def numbered(call: Call) -> list[list[Expr]]:
    """Ranges and random numbers."""
    return [[call.fixed(size, "made by number") for size in call.out_shape()]]
