"""Einstein summation: the operator that brings its own equation.

einsum("bhqd,bhkd->bhqk", q, k)
"""

from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr


@rule(
    "aten.einsum",
    law="letters that return are one axis, letters that do not are summed over",
    samples=(
        "torch.einsum('bhqd,bhkd->bhqk', T(2, 3, 4, 5), T(2, 3, 6, 5))",
        "torch.einsum('...i,oi->...o', T(2, 3, 4), T(5, 4))",
        "torch.einsum('ij,jk', T(2, 3), T(3, 4))",
        "torch.einsum('bi->b', T(2, 3))",
    ),
)
def einsum(call: Call) -> list[list[Expr]]:
    """Every letter one axis; the ellipsis broadcasts."""
    inputs, _, output = call.arg("equation").replace(" ", "").partition("->")
    patterns = inputs.split(",")
    if "->" not in call.arg("equation"):
        letters = "".join(patterns).replace("...", "")
        alone = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        output = ("..." if "..." in inputs else "") + "".join(alone)
    held: dict[str, Expr] = {}
    dots: list[Sequence[Expr]] = []
    for pattern, dims in zip(patterns, call.tensors("tensors"), strict=True):
        dots.append(_bind(call, pattern, dims, held))
    shared = call.broadcast(*dots)
    if len(patterns) > 1:
        call.count_macs(*held.values(), *shared)
    head, ellipsis, tail = output.partition("...")
    return [[*(held[x] for x in head), *(shared if ellipsis else ()), *(held[x] for x in tail)]]


def _bind(call: Call, pattern: str, dims: Sequence[Expr], held: dict[str, Expr]) -> Sequence[Expr]:
    """Equate the dims of one operand with its letters; returns what the ellipsis covers."""
    head, ellipsis, tail = pattern.partition("...")
    spare = len(dims) - len(head) - len(tail)
    named = [*dims[: len(head)], *dims[len(dims) - len(tail) :]] if ellipsis else dims
    for letter, dim in zip(head + tail, named, strict=True):
        if held.get(letter, ONE).size == 1:
            held[letter] = dim
        elif dim.size != 1:
            call.equate(held[letter], dim)
    return dims[len(head) : len(head) + spare] if ellipsis else ()
