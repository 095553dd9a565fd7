"""Convolution and its transpose, grouped and depthwise included: g groups, i and o channels in each.

y[n, (g o), x] = sum over i, p of  w[(g o), i, p] * u[n, (g i), x + p]
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import equation, rule
from secateur.graph.axes import Expr
from secateur.graph.equation import parse
from secateur.graph.trait import Trait

_SPATIAL = {1: ("h", "p", "y"), 2: ("h w", "p q", "y x"), 3: ("h w l", "p q r", "y x z")}


def _forward(rank: int) -> tuple[str, str]:
    inner, kernel, outer = _SPATIAL[rank]
    text = f"input(... (g i) {inner}), weight((g o) i {kernel}), bias((g o)) -> (... (g o) {outer})"
    return text, f"... g o i {kernel} {outer}"


def _transposed(rank: int) -> tuple[str, str]:
    inner, kernel, outer = _SPATIAL[rank]
    text = f"input(... (g i) {inner}), weight((g i) o {kernel}), bias((g o)) -> (... (g o) {outer})"
    return text, f"... g i o {kernel} {inner}"


def _samples(op: str, rank: int, *, transposed: bool) -> tuple[str, ...]:
    size, kernel = ", 5" * rank, ", 3" * rank
    grouped = f"F.{op}(T(2, 6{size}), T({'6, 2' if transposed else '4, 3'}{kernel}), T(4), groups=2)"
    plain = f"F.{op}(T(2, 3{size}), T({'3, 4' if transposed else '4, 3'}{kernel}), T(4), padding=1)"
    depthwise = f"F.{op}(T(2, 4{size}), T(4, 1{kernel}), None, stride=2, groups=4)"
    unbatched = f"F.{op}(T(3{size}), T({'3, 4' if transposed else '4, 3'}{kernel}))"
    return plain, grouped, depthwise, unbatched


for _rank in (1, 2, 3):
    for _op, _make in ((f"conv{_rank}d", _forward), (f"conv_transpose{_rank}d", _transposed)):
        _text, _macs = _make(_rank)
        equation(
            f"aten.{_op}",
            _text,
            macs=_macs,
            sizes={"g": "groups"},
            samples=_samples(_op, _rank, transposed=_make is _transposed),
            traits=Trait.LAYER,
        )

equation(
    "aten.conv_tbc",
    "self(t n i), weight(p i o), bias(o) -> (y n o)",
    macs="p i y n o",
    samples=("torch.conv_tbc(T(5, 2, 3), T(3, 3, 4), T(4), 1)",),
)


@rule(
    "aten.convolution",
    law="what conv1d..3d or conv_transpose1d..3d say, MACs included, by the argument `transposed`",
    traits=Trait.LAYER,
    samples=(
        "torch.convolution(T(2, 3, 5, 5), T(4, 3, 3, 3), T(4), [1, 1], [0, 0], [1, 1], False, [0, 0], 1)",
        "torch.convolution(T(2, 4, 5, 5), T(4, 3, 3, 3), T(6), [1, 1], [0, 0], [1, 1], True, [0, 0], 2)",
    ),
)
def convolution(call: Call) -> list[list[Expr]]:
    """The general operator behind all convolutions, called directly by some models."""
    text, macs = (_transposed if call.arg("transposed") else _forward)(len(call["weight"]) - 2)
    return call.equation(parse(text), macs=macs, sizes={"g": "groups"})
