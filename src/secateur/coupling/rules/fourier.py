"""Fourier transforms: every frequency holds all positions, so transformed dims stay; the others pass."""

import itertools
from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr

_REASON = "a transformed dim"

_ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
_MANY = (
    "fft2",
    "ifft2",
    "rfft2",
    "irfft2",
    "hfft2",
    "ihfft2",
    "fftn",
    "ifftn",
    "rfftn",
    "irfftn",
    "hfftn",
    "ihfftn",
)
_TRANSFORMS = {f"aten.fft_{name}": f"torch.fft.{name}(T(2, 4), dim=1)" for name in _ONE}
_TRANSFORMS |= {f"aten.fft_{name}": f"torch.fft.{name}(T(2, 4, 4), dim=(1, 2))" for name in _MANY}


@rule(*_TRANSFORMS, law="x(... a ...) -> (... f ...): transformed dims stay", samples=_TRANSFORMS)
def transform(call: Call) -> list[list[Expr]]:
    """Along one dim, the named ones, the last as many as sizes are given, or all."""
    dims = list(call["self"])
    rank = len(dims)
    given, sizes = call.arg("dim"), call.arg("s")
    if given is None:
        given = range(-len(sizes), 0) if isinstance(sizes, Sequence) else range(rank)
    for at in {call.dim(place, rank) for place in ((given,) if isinstance(given, int) else given)}:
        call.protect(dims[at], _REASON)
        dims[at] = call.fixed(call.out_shape()[at], _REASON)
    return [dims]


@rule(
    "aten.stft",
    "aten.istft",
    law="self(n t) -> (n f s) and its inverse: all but n stay",
    samples={
        "aten.stft": "torch.stft(T(2, 16), 4, window=T(4), center=False, return_complex=True)",
        "aten.istft": "torch.istft(torch.complex(T(2, 3, 13), T(2, 3, 13)), 4, window=T(4))",
    },
)
def short_time(call: Call) -> list[list[Expr]]:
    """Transforms of windows in time."""
    dims = call["self"]
    own = 1 if call.node.op == "aten.stft" else 2
    windows = [window for name, window in call.operands() if name == "window"]
    for dim in itertools.chain(dims[len(dims) - own :], *windows):
        call.protect(dim, _REASON)
    batch = dims[: len(dims) - own]
    return [[*batch, *(call.fixed(size, _REASON) for size in call.out_shape()[len(batch) :])]]


@rule(
    "aten.view_as_real",
    "aten.view_as_complex",
    law="complex x(...) <-> real (... 2)",
    samples={
        "aten.view_as_real": "torch.view_as_real(torch.complex(T(2, 3), T(2, 3)))",
        "aten.view_as_complex": "torch.view_as_complex(T(3, 4, 2))",
    },
)
def as_pairs(call: Call) -> list[list[Expr]]:
    """Real and imaginary parts as a dim of two."""
    dims = call["self"]
    reason = "real and imaginary part"
    if call.node.op == "aten.view_as_real":
        return [[*dims, call.fixed(2, reason, structural=True)]]
    call.protect(dims[-1], reason, structural=True)
    return [dims[:-1]]
