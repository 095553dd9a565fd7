"""Score every group with a criterion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.couple import Groups
from secateur.errors import RequestError
from secateur.score.criterion import Criterion, Scorer, criteria
from secateur.score.view import GroupView, Parameters, view_group


@dataclass(frozen=True, eq=False)
class Scores:
    """One score for each channel of each group that may be cut; larger means keep.

    Attributes:
        criterion: The criterion's name.
        by_group: Scores by group name, each of shape (channels,), float64.
        skipped: Groups that the criterion cannot score, with the reason.
    """

    criterion: str
    by_group: Mapping[str, Tensor]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{self.criterion} scores of {len(self.by_group)} groups"]
        for name, scores in self.by_group.items():
            low, high = float(scores.min()), float(scores.max())
            lines.append(f"  {name}: {len(scores)} channels, {low:.4g} to {high:.4g}")
        return "\n".join(lines)


def score(
    model: nn.Module,
    groups: Groups,
    criterion: str | Scorer,
    seed: int = 0,
    *,
    stored: Mapping[str, Tensor] | None = None,
    known: Scores | None = None,
) -> Scores:
    """Score the channels of every group that may be cut.

    Args:
        model: The model whose values count.
        groups: Its groups.
        criterion: A registered name, or a callable from a group's view to scores of shape (channels,).
        seed: For criteria that draw.
        stored: Values that count instead of the model's, by parameter name, such as those of a checkpoint
            that are read one by one.
        known: Scores of some groups of this model by this criterion; they are not computed again.

    Returns:
        The scores; groups that the criterion cannot score are named with the reason.

    Raises:
        RequestError: The criterion is unknown, or returned the wrong shape or numbers that are not finite.
    """
    chosen = as_criterion(criterion)
    by_group: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    parameters = Parameters.of(model, stored)
    for group in groups.prunable:
        if known is not None and group.name in known.by_group:
            by_group[group.name] = known.by_group[group.name]
            continue
        view = view_group(group, parameters, seed)
        if not chosen.applies(view):
            skipped[group.name] = f"criterion {chosen.name} needs {chosen.needs}, this group has none"
            continue
        scores = checked_scores(chosen.score(view), view, chosen)
        if chosen.is_relative:
            scores = scores / scores.abs().mean().clamp_min(torch.finfo(torch.float64).tiny)
        by_group[group.name] = scores
    return Scores(chosen.name, by_group, skipped)


def as_criterion(criterion: str | Scorer) -> Criterion:
    """The criterion of a name, or of a callable from a group's view to scores."""
    if isinstance(criterion, str):
        return criteria[criterion]
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return Criterion(name, criterion, "a parameter", lambda view: bool(view.members), is_relative=False)


def checked_scores(scores: Any, view: GroupView, criterion: Criterion) -> Tensor:
    """What a criterion returned, in float64 on the CPU.

    Raises:
        RequestError: It has the wrong shape, or numbers that are not finite.
    """
    scores = torch.as_tensor(scores, device="cpu").detach().double()
    if scores.shape != (view.size,):
        raise RequestError(
            f"criterion {criterion.name} returned shape {list(scores.shape)} "
            f"for group {view.name} of {view.size} channels",
            do=f"return one score for each channel, shape [{view.size}]",
        )
    if not bool(torch.isfinite(scores).all()):
        culprits = [member.tensor for member in view.members if not bool(torch.isfinite(member.rows).all())]
        raise RequestError(
            f"criterion {criterion.name} gave numbers that are not finite for group {view.name}",
            [f"tensors with such values: {', '.join(culprits) or 'none'}"],
            "mend the weights, or protect that layer",
        )
    return scores
