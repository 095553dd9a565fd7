"""The registry of criteria and the words that declare one.

    score(group) = normalise( aggregate over members of  formula(member) )

A formula sees one member of a group at a time (a weight, an activation), or all of the group at once.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from types import CodeType, FunctionType, NoneType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from secateur.errors import RequestError
from secateur.registry import Registry
from secateur.score.aggregate import aggregates
from secateur.score.loss import Loss
from secateur.score.normalise import normalisers
from secateur.score.observations import evidence
from secateur.score.view import GroupView

Scorer: TypeAlias = Callable[[GroupView], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A criterion as the pipeline runs it.

    Attributes:
        name: Its registered name.
        formula: From what is read of one member to one score for each channel; larger means keep.
        members: What is read of a group, one item for each member; empty where it cannot be scored.
        reads: One such item in words, for messages: "a weight", "a batch-norm scale".
        needs: What must be there: "weights" (values of parameters), or data for "activations" or
            "gradients".
        aggregate: How the scores of members are joined, a registered name; None if the formula sees the
            whole group and there is nothing to join.
        normalise: How the scores of groups are made comparable, a registered name.
        loss: For gradients, from output and target to a mean over the batch; None for the default.
        options: Keyword arguments of the formula.
    """

    name: str
    formula: Callable[..., Tensor]
    members: Callable[[GroupView], Sequence[Any]]
    reads: str
    needs: str = "weights"
    aggregate: str | None = "mean"
    normalise: str = "none"
    loss: Loss | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, view: GroupView) -> bool:
        """Whether a group has what is read."""
        return len(self.members(view)) > 0

    def score(self, view: GroupView) -> Tensor:
        """Score the channels of a group; not normalised."""
        found = [self.formula(item, **self.options) for item in self.members(view)]
        if self.aggregate is None:
            return found[0]
        return aggregates[self.aggregate](torch.stack(found))

    def normalised(self, scores: Tensor, view: GroupView) -> Tensor:
        """Make a group's scores comparable with those of other groups."""
        return normalisers[self.normalise](scores, view)


criteria: Registry[Criterion] = Registry("criterion", "secateur.score.criteria")

_CHUNK = 1 << 24
"""Elements that a formula which takes every row by itself sees at once: 128 MiB in float64."""


@dataclass(frozen=True)
class _Source:
    """What a formula reads of a group."""

    reads: str
    needs: str
    members: Callable[[GroupView], Sequence[Any]]
    has_several: bool = True


_SOURCES = {
    "weights": _Source("a weight", "weights", lambda view: view.weights),
    "norm-scales": _Source("a batch-norm scale", "weights", lambda view: view.norm_scales),
    "consumers": _Source(
        "a layer that reads it",
        "activations",
        lambda view: [view.consumers] if view.consumers else [],
        has_several=False,
    ),
    "gradients": _Source(
        "a parameter",
        "gradients",
        lambda view: [view.gradients] if view.members else [],
        has_several=False,
    ),
}


def _source(of: str) -> _Source:
    """What a formula reads: parameters, gradients, or a kind of evidence."""
    if of in _SOURCES:
        return _SOURCES[of]
    return _Source(evidence[of].reads, "activations", lambda view: view.evidence(of))


def criterion(name: str, *, of: str, normalise: str, is_by_row: bool = False) -> Callable[[Any], Any]:
    """Register a formula; a group's score is by default the mean over its members.

    Args:
        name: The word that users choose it by.
        of: What it reads of a group: "weights" or "norm-scales" (one row for each channel), "gradients"
            (`Gradients`, of the whole group), "consumers" (all layers that read it), or a kind of evidence:
            "activations" (`Moments`), "ranks" (one for each channel), a module in `score/evidence/`.
        normalise: How scores of different groups are made comparable: "mean" by the group's mean, "none" only
            where they are shares or gates. One unit is not enough: changes of the loss hold for one channel
            that goes, and when many go at once by them a layer loses nearly all (docs/LOG.md).
        is_by_row: The score of a row depends on that row alone; large tensors are then scored in pieces.
    """
    source = _source(of)

    def register(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
        is_of_rows = of in ("weights", "norm-scales")
        entry = Criterion(
            name=name,
            formula=_OnRows(formula, is_by_row) if is_of_rows else formula,
            members=source.members,
            reads=source.reads,
            needs=source.needs,
            aggregate="mean" if source.has_several else None,
            normalise=normalise,
        )
        criteria.add(name, entry)
        return formula

    return register


@dataclass(frozen=True)
class _OnRows:
    """A formula on rows in float64; in pieces where each row is scored by itself."""

    formula: Callable[..., Tensor]
    is_by_row: bool

    def __call__(self, rows: Tensor, **options: Any) -> Tensor:
        step = max(1, _CHUNK // max(1, rows.shape[1]))
        if not self.is_by_row or len(rows) <= step:
            return self.formula(rows.double(), **options)
        return torch.cat([self.formula(piece.double(), **options) for piece in rows.split(step)])


def choose(
    name: str | Scorer | Criterion,
    *,
    aggregate: str | None = None,
    normalise: str | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Criterion:
    """Choose a criterion with options, for `criterion=` of `prune` and `plan`.

    Args:
        name: A registered name, or a callable from a group's view to scores.
        aggregate: How the scores of a group's members are joined: "mean", "sum", "max" or "prod" (the
            geometric mean). None for the criterion's own, which is the mean.
        normalise: How groups compare: "none", "mean", "max", "gaussian" or "size" (by parameters of one
            channel). None for the criterion's own.
        loss: What gradient criteria differentiate: from output and target (None without labels) to the mean
            over a batch. None: cross-entropy for class indices, mean squared error for real targets, half
            the mean square of the outputs without labels.
        options: The criterion's own, such as `n` of "ln".

    Raises:
        RequestError: A name is unknown, or the criterion does not take the option.

    Example:
        >>> chosen = choose("ln", n=1.5, aggregate="max")
        >>> chosen.name, chosen.aggregate, chosen.normalise, dict(chosen.options)
        ('ln', 'max', 'mean', {'n': 1.5})
        >>> choose("taylor", aggregate="sum")
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: criterion taylor takes no aggregate, got 'sum'
          it sees all members of a group at once
          leave aggregate out
    """
    found = as_criterion(name)
    if aggregate is not None:
        if found.aggregate is None:
            raise RequestError(
                f"criterion {found.name} takes no aggregate, got '{aggregate}'",
                ["it sees all members of a group at once"],
                "leave aggregate out",
            )
        aggregates[aggregate]
        found = replace(found, aggregate=aggregate)
    if normalise is not None:
        normalisers[normalise]
        found = replace(found, normalise=normalise)
    if loss is not None:
        if found.needs != "gradients" and found.members is not _whole:
            raise RequestError(f"criterion {found.name} takes no loss", do="leave loss out")
        found = replace(found, loss=loss)
    _require_options(found, options)
    return replace(found, options={**found.options, **options})


def _require_options(found: Criterion, options: Mapping[str, Any]) -> None:
    formula = found.formula.formula if isinstance(found.formula, _OnRows) else found.formula
    taken = dict(getattr(formula, "__kwdefaults__", None) or {})
    for option in options:
        if option not in taken:
            raise RequestError(
                f"criterion {found.name} takes no option '{option}'",
                [f"its options: {', '.join(taken) or 'none'}"],
                "leave it out",
            )


def as_criterion(criterion: str | Scorer | Criterion) -> Criterion:
    """The criterion of a name, or of a callable from a group's view to scores."""
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, str):
        return criteria[criterion]
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return Criterion(name, criterion, _whole, "a parameter", aggregate=None)


def _whole(view: GroupView) -> list[GroupView]:
    return [view] if view.members else []


def describe(criterion: str | Scorer | Criterion) -> str:
    """Say what a criterion computes, alike in every process: by this a run that goes on knows its own.

    Args:
        criterion: A registered name, a `Criterion`, or a callable from a group's view to scores.

    Returns:
        The name, with what differs from the registered criterion of that name. A callable is told by its name
        and a hash of its code, constants, defaults and closure; the globals that it reads are not looked at.

    Example:
        >>> describe("l1"), describe(choose("ln", n=1.5, aggregate="max"))
        ('l1', 'ln (aggregate=max, n=1.5)')
        >>> describe(lambda view: view.weights[0]) == describe(lambda view: view.weights[-1])
        False
    """
    found = as_criterion(criterion)
    own = as_criterion(found.name if found.name in criteria else lambda view: torch.empty(0))
    names = ("formula", "members", "aggregate", "normalise", "loss")
    told = {name: getattr(found, name) for name in names if getattr(found, name) != getattr(own, name)}
    told |= dict(sorted(found.options.items()))
    shown = ", ".join(f"{name}={_told(value)}" for name, value in told.items())
    return f"{found.name} ({shown})" if shown else found.name


_PLAIN = (str, bytes, int, float, complex, NoneType)


def _told(value: Any) -> str:
    """A plain value as it is, any other by its name and a hash."""
    if isinstance(value, _PLAIN):
        return str(value)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{name} {hashlib.sha256(_text(value, ()).encode()).hexdigest()[:8]}"


def _text(value: Any, within: tuple[Any, ...]) -> str:
    """All that a value holds, without addresses of memory; `within` is what holds it."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if any(value is held for held in within):
        return "itself"
    texts = [_text(part, (*within, value)) for part in _parts(value)]
    return f"{type(value).__qualname__}({', '.join(sorted(texts) if isinstance(value, Set) else texts)})"


def _parts(value: Any) -> Iterable[Any]:
    match value:
        case Tensor():
            numbers = value.detach().cpu().contiguous().flatten()
            return str(value.dtype), tuple(value.shape), numbers.view(torch.uint8).numpy().tobytes()
        case CodeType():
            return value.co_code, value.co_names, value.co_consts
        case FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return (
                value.__module__,
                value.__qualname__,
                value.__code__,
                value.__defaults__,
                value.__kwdefaults__,
                cells,
            )
        case type():
            return value.__module__, value.__qualname__, vars(value).get("__call__")
        case Mapping():
            return value.items()
        case list() | tuple() | Set():
            return value
    try:
        return [value.__reduce_ex__(2)]  # as pickle takes an object, a partial or a method apart
    except TypeError:  # a module, a lock, a generator
        return [getattr(value, "__name__", "")]
