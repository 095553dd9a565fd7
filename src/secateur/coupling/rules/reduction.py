"""Reductions: which lose a removed position without a trace, which take statistics, which count positions.

A removed position is zero in the masked network. A sum does not see zeros: cutting it is exact. A mean, a
maximum or a softmax does: there the equality holds with the statistic taken over the kept positions.
An operator that returns positions (argmax, sort) would return other numbers: its axis stays.
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr
from secateur.graph.trait import Trait

_SUMS = {
    "aten.sum": "T(2, 3, 4).sum(dim=(1, 2))",
    "aten.nansum": "T(2, 3).nansum(dim=1)",
    "aten.count_nonzero": "torch.count_nonzero(T(2, 3), dim=1)",
    "aten.any": "(T(2, 3) > 9).any(dim=1)",
}
_STATISTICS = {
    "aten.mean": "T(2, 3, 4).mean(dim=(1,), keepdim=True)",
    "aten.amax": "T(2, 3).amax(dim=1)",
    "aten.amin": "T(2, 3).amin(dim=1)",
    "aten.all": "(T(2, 3) > -9).all(dim=1)",
    "aten.prod": "T(2, 3).prod(dim=1)",
    "aten.var": "T(2, 3).var(dim=1)",
    "aten.std": "T(2, 3).std(dim=1)",
    "aten.var_mean": "torch.var_mean(T(2, 3), dim=1)",
    "aten.std_mean": "torch.std_mean(T(2, 3), dim=1)",
    "aten.logsumexp": "torch.logsumexp(T(2, 3), dim=1)",
    "aten.special_logsumexp": "torch.special.logsumexp(T(2, 3), dim=1)",
    "aten.nanmean": "T(2, 3).nanmean(dim=1)",
    "aten.aminmax": "T(2, 3).aminmax(dim=1).max",
}
_SCALED = {
    "aten.softmax": "F.softmax(T(2, 3), dim=1)",
    "aten.log_softmax": "F.log_softmax(T(2, 3), dim=1)",
    "aten._softmax": "torch.ops.aten._softmax(T(2, 3), 1, False)",
    "aten._log_softmax": "torch.ops.aten._log_softmax(T(2, 3), 1, False)",
    "aten.special_softmax": "torch.special.softmax(T(2, 3), dim=1)",
    "aten.special_log_softmax": "torch.special.log_softmax(T(2, 3), dim=1)",
    "aten.cumprod": "T(2, 3).cumprod(dim=1)",
    "aten.logcumsumexp": "torch.logcumsumexp(T(2, 3), dim=1)",
}
_POSITIONS = {
    "aten.argmax": "T(2, 3).argmax(dim=1)",
    "aten.argmin": "T(2, 3).argmin(dim=1)",
    "aten.sort": "T(2, 3).sort(dim=1).values",
    "aten.argsort": "T(2, 3).argsort(dim=1)",
    "aten.topk": "T(2, 3).topk(2, dim=1).values",
    "aten.kthvalue": "T(2, 3).kthvalue(2, dim=1).values",
    "aten.mode": "T(2, 3).mode(dim=1).values",
}


def _reduced(call: Call) -> list[int]:
    """The positions of the dims that are reduced; all of them where none is named."""
    rank = len(call["self"])
    given = call.arg("dim")
    if given is None or given == ():
        return list(range(rank))
    return [call.dim(at, rank) for at in (given if isinstance(given, tuple) else (given,))]


def _without(call: Call, reduced: list[int]) -> list[list[Expr]]:
    dims = call["self"]
    rest = [dim for index, dim in enumerate(dims) if index not in reduced]
    kept = [ONE if index in reduced else dim for index, dim in enumerate(dims)]
    return [kept if len(shape) == len(dims) else rest for shape in call.out_shapes()]


@rule(*_SUMS, law="x(... a) -> (...): zeros add nothing, so cutting a is exact", samples=_SUMS)
def contract(call: Call) -> list[list[Expr]]:
    """Sums and what is made of sums."""
    return _without(call, _reduced(call))


@rule(
    "aten.linalg_vector_norm",
    "aten.norm",
    law="x(... a) -> (...): zeros add nothing to a norm of order p >= 0; below it is a statistic over a",
    samples={
        "aten.linalg_vector_norm": "torch.linalg.vector_norm(T(2, 3), dim=1, keepdim=True)",
        "aten.norm": "torch.ops.aten.norm(T(2, 3), 2, [1])",
    },
)
def norm(call: Call) -> list[Expr] | list[list[Expr]]:
    """Vector norms; a matrix norm is another operator."""
    order = call.arg("ord", call.arg("p", 2))
    return statistic(call) if order is not None and order < 0 else contract(call)


@rule(
    *_STATISTICS,
    law="x(... a) -> (...): a statistic over a",
    samples=_STATISTICS,
    traits={
        "aten.mean": Trait.RESAMPLES,
        "aten.nanmean": Trait.RESAMPLES,
        "aten.amax": Trait.RESAMPLES | Trait.SELECTS,
        "aten.amin": Trait.RESAMPLES | Trait.SELECTS,
        "aten.aminmax": Trait.SELECTS,
    },
)
def statistic(call: Call) -> list[list[Expr]]:
    """Means, extremes and moments."""
    reduced = _reduced(call)
    for at in reduced:
        call.renormalise(call["self"][at], "statistics are taken over it")
    return _without(call, reduced)


@rule(*_SCALED, law="x(... a) -> (... a), scaled by a statistic over a", samples=_SCALED)
def scale(call: Call) -> list[list[Expr]]:
    """Softmax and its relatives."""
    dims = call["self"]
    for at in _reduced(call):
        call.renormalise(dims[at], "statistics are taken over it")
    return [dims for _ in call.out_shapes()]


@rule(
    "aten.cumsum",
    law="x(... a) -> (... a): zeros add nothing",
    samples=("T(2, 3).cumsum(dim=1)",),
    traits=Trait.MIXES,
)
def accumulate(call: Call) -> list[list[Expr]]:
    """Running sums."""
    return [call["self"]]


@rule(
    "aten.quantile",
    "aten.nanquantile",
    law="x(... a), q(k) -> (k ...): a statistic over a",
    samples={
        "aten.quantile": "T(2, 3).quantile(0.5, dim=1)",
        "aten.nanquantile": "T(2, 3).nanquantile(0.5, dim=1, keepdim=True)",
    },
)
def quantile(call: Call) -> list[list[Expr]]:
    """Interpolated order statistics; several of them come first."""
    reduced = _reduced(call)
    for at in reduced:
        call.renormalise(call["self"][at], "statistics are taken over it")
    asked = next((dims for name, dims in call.operands() if name == "q"), [])
    kept = [ONE if index in reduced else dim for index, dim in enumerate(call["self"])]
    rest = [dim for index, dim in enumerate(call["self"]) if index not in reduced]
    return [[*asked, *(kept if call.arg("keepdim") else rest)]]


@rule(
    "aten.renorm",
    law="self(a ...) -> (a ...), scaled by the norms of its slices: zeros add nothing to a norm",
    samples=("T(2, 3, 4).renorm(2, 0, 0.5)",),
    traits=Trait.MIXES,
)
def renorm(call: Call) -> list[list[Expr]]:
    """Slices along one dim get a largest norm."""
    return [call["self"]]


@rule(
    "aten.sum_to_size",
    law="x(... a) -> (... 1): zeros add nothing; the sizes follow",
    samples=("T(5, 2, 3).sum_to_size(2, 1)",),
)
def sum_to_size(call: Call) -> list[list[Expr]]:
    """The inverse of broadcasting."""
    shape = call.out_shape()
    dims = call["self"][len(call["self"]) - len(shape) :]
    result = [ONE if size == 1 else dim for dim, size in zip(dims, shape, strict=True)]
    for index, dim in enumerate(result):
        call.literal(("size", index), dim)
    return [result]


@rule(
    *_POSITIONS,
    law="positions of a are numbered, so a stays",
    samples=_POSITIONS,
    traits=dict.fromkeys(["aten.sort", "aten.topk", "aten.kthvalue", "aten.mode"], Trait.SELECTS),
)
def locate(call: Call) -> list[list[Expr]]:
    """Operators that return where something is."""
    dims = list(call["self"])
    reduced = _reduced(call) if call.arg("dim", ()) != () or not call.out_shape() else [len(dims) - 1]
    for at in reduced:
        call.protect(dims[at], "its positions are numbered")
    shape = call.out_shape()
    if len(shape) == len(dims):
        return [
            [
                call.fixed(size, "its positions are numbered") if index in reduced else dims[index]
                for index, size in enumerate(shape)
            ]
            for shape in call.out_shapes()
        ]
    return [[dim for index, dim in enumerate(dims) if index not in reduced] for _ in call.out_shapes()]


_CHOICES = {
    "aten.max": "T(2, 3).max(dim=1).values",
    "aten.min": "T(2, 3).min(dim=1).values",
    "aten.median": "T(2, 3).median(dim=1).values",
    "aten.nanmedian": "T(2, 3).nanmedian(dim=1).values",
}


@rule(
    *_CHOICES,
    law="x(... a) -> (...): a statistic over a; where it asks which position was chosen, a stays",
    samples=_CHOICES,
    traits=Trait.SELECTS | Trait.RESAMPLES,
    traits_if=lambda node: "other" not in node.args,
)
def choose(call: Call) -> list[Expr] | list[list[Expr]]:
    """One of the values along a dim, and perhaps where it stands; `max` of two tensors is element-wise."""
    if "other" in call:
        return [call.broadcast(call["self"], call["other"])]
    places = call.node.makes[1:]
    if any(call.graph.readers[value] or value in call.graph.outputs for value in places):
        return locate(call)
    return statistic(call)
