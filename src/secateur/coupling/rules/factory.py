"""Tensors made from nothing: constant ones may follow any axis, numbered or random ones may not."""

from math import prod

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
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
    "aten.randint": "torch.randint(3, (2,))",
    "aten.randperm": "torch.randperm(3)",
    "aten.logspace": "torch.logspace(0, 1, 4)",
    "aten.range": "torch.ops.aten.range(0, 3)",
    "aten.tril_indices": "torch.tril_indices(3, 3)",
    "aten.triu_indices": "torch.triu_indices(3, 3)",
    "aten.fft_fftfreq": "torch.fft.fftfreq(4)",
    "aten.fft_rfftfreq": "torch.fft.rfftfreq(4)",
    "aten.bartlett_window": "torch.bartlett_window(4)",
    "aten.blackman_window": "torch.blackman_window(4)",
    "aten.hamming_window": "torch.hamming_window(4)",
    "aten.hann_window": "torch.hann_window(4)",
    "aten.kaiser_window": "torch.kaiser_window(4)",
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


@rule(
    "aten.resize",
    law="x(...) -> (...) where the shape stays; new dims where x is empty or one number; else a barrier",
    samples=("T(2, 3).clone().resize_(2, 3)", "torch.empty(0).resize_(2, 3).fill_(1.0)"),
)
def resize(call: Call) -> list[list[Expr]]:
    """How observers make room for what they have seen."""
    shape = call.out_shape()
    dims = call["self"]
    if tuple(dim.size for dim in dims) != shape:
        if prod(dim.size for dim in dims) > 1:
            return call.barrier("it addresses memory, not positions")
        dims = [axis(size) for size in shape]
    for index, dim in enumerate(dims):
        call.literal(("size", index), dim)
    return [dims]
