"""Losses: models return one when labels are given.

reduction 0 keeps every position, 1 takes the mean, 2 the sum. A removed position is zero in both operands;
where the loss of (0, 0) is zero the sum does not see it, elsewhere it is a statistic. Classes are addressed
by number.
"""

from collections.abc import Iterable

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr

_NONE, _SUM = 0, 2
_CLASSES = "classes are addressed by number"


def _reduce(call: Call, dims: list[Expr], *, zero_at_zero: bool = False) -> list[Expr]:
    """The dims of a loss after its reduction."""
    reduction = call.arg("reduction")
    if reduction == _NONE:
        return dims
    if reduction != _SUM or not zero_at_zero:
        for dim in dims:
            call.renormalise(dim, "statistics are taken over it")
    return []


_DIFFERENCES = {
    "aten.mse_loss": "F.mse_loss(T(2, 3), T(2, 3))",
    "aten.l1_loss": "F.l1_loss(T(2, 3), T(2, 3), reduction='sum')",
    "aten.smooth_l1_loss": "F.smooth_l1_loss(T(2, 3), T(2, 3), reduction='none')",
    "aten.huber_loss": "F.huber_loss(T(2, 3), T(2, 3))",
    "aten.kl_div": "F.kl_div(T(2, 3), T(2, 3).sigmoid(), reduction='sum')",
}
_OTHERS = {
    "aten.binary_cross_entropy": "F.binary_cross_entropy(T(2, 3).sigmoid(), T(2, 3).sigmoid(), T(3))",
    "aten.binary_cross_entropy_with_logits": (
        "F.binary_cross_entropy_with_logits(T(2, 3), T(2, 3), T(2, 1), pos_weight=T(3))"
    ),
    "aten.soft_margin_loss": "F.soft_margin_loss(T(2, 3), T(2, 3), reduction='sum')",
    "aten.poisson_nll_loss": "F.poisson_nll_loss(T(2, 3), T(2, 3), reduction='sum')",
    "aten.hinge_embedding_loss": "F.hinge_embedding_loss(T(2, 3), T(2, 3).sign())",
    "aten.margin_ranking_loss": "F.margin_ranking_loss(T(3), T(3), T(3), margin=0.5)",
}


@rule(
    *_DIFFERENCES,
    *_OTHERS,
    law="element-wise; a mean is a statistic, as is a sum of losses that are not zero between zeros",
    samples={**_DIFFERENCES, **_OTHERS},
)
def elementwise_loss(call: Call) -> list[list[Expr]]:
    """Losses of each position alone."""
    operands = [dims for _, dims in call.operands()]
    shared = call.broadcast(*operands)
    full = [dim.size for dim in shared]
    repeats = any([dim.size for dim in dims] != full for dims in operands)
    return [_reduce(call, shared, zero_at_zero=call.node.op in _DIFFERENCES and not repeats)]


def _protect_classes(call: Call, classes: Expr) -> None:
    call.protect(classes, _CLASSES)
    for dim in (dim for name, dims in call.operands() if name == "weight" for dim in dims):
        call.protect(dim, _CLASSES)


_CLASSIFIED = {
    "aten.cross_entropy_loss": "F.cross_entropy(T(4, 3), (T(4) > 0).long(), T(3).abs())",
    "aten.nll_loss": "torch.ops.aten.nll_loss(T(4, 3), (T(4) > 0).long())",
    "aten.nll_loss2d": "torch.ops.aten.nll_loss2d(T(2, 3, 4, 4), (T(2, 4, 4) > 0).long(), reduction=0)",
    "aten.nll_loss_nd": "F.nll_loss(T(2, 3, 4), (T(2, 4) > 0).long())",
}


@rule(
    *_CLASSIFIED,
    law="self(n c ...), target(n ...), weight(c) -> (n ...): c stays; a reduced loss is a statistic",
    samples=_CLASSIFIED,
)
def classification_loss(call: Call) -> list[list[Expr]]:
    """Losses over classes; the target holds their numbers, or their probabilities."""
    scores, target = call["self"], call["target"]
    at = min(1, len(scores) - 1)
    _protect_classes(call, scores[at])
    rest = scores[:at] + scores[at + 1 :]
    for dim, other in zip(scores if len(target) == len(scores) else rest, target, strict=True):
        call.equate(dim, other)
    return [_reduce(call, rest)]


_MARGINS = {
    "aten.multi_margin_loss": "F.multi_margin_loss(T(4, 3), (T(4) > 0).long())",
    "aten.multilabel_margin_loss": "F.multilabel_margin_loss(T(2, 3), (T(2, 3) > 0).long())",
}


@rule(*_MARGINS, law="self(n c), target(n) or (n c) -> (n): c stays", samples=_MARGINS)
def margin_loss(call: Call) -> list[list[Expr]]:
    """Margins between classes."""
    *batch, classes = call["self"]
    _protect_classes(call, classes)
    target = call["target"]
    call.broadcast(batch, target[: len(batch)])
    for dim in target[len(batch) :]:
        call.protect(dim, _CLASSES)
    return [_reduce(call, batch)]


def _rows(call: Call, operands: Iterable[list[Expr]]) -> tuple[list[Expr], Expr]:
    shared = call.broadcast(*operands)
    return shared[:-1], shared[-1] if shared else ONE


@rule(
    "aten.cosine_embedding_loss",
    law="input1(... a), input2(... a), target(...) -> (...): zeros of a add nothing",
    samples=("F.cosine_embedding_loss(T(2, 3), T(2, 3), T(2).sign())",),
)
def cosine_loss(call: Call) -> list[list[Expr]]:
    """Angles between rows."""
    rest, _ = _rows(call, [call["input1"], call["input2"]])
    return [_reduce(call, call.broadcast(rest, call["target"]))]


@rule(
    "aten.triplet_margin_loss",
    law="anchor(... a), positive(... a), negative(... a) -> (...): a statistic over a",
    samples=("F.triplet_margin_loss(T(2, 3), T(2, 3), T(2, 3))",),
)
def triplet_loss(call: Call) -> list[list[Expr]]:
    """Differences of distances between rows."""
    rest, width = _rows(call, [call["anchor"], call["positive"], call["negative"]])
    call.renormalise(width, "statistics are taken over it")
    return [_reduce(call, rest)]
