"""Score every group with a criterion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.coupling import Group, Groups
from secateur.errors import RequestError
from secateur.score.criterion import Criterion, Scorer, as_criterion
from secateur.score.statistics import Statistics
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
    criterion: str | Scorer | Criterion,
    seed: int = 0,
    *,
    data: Samples | None = None,
    stored: Mapping[str, Tensor] | None = None,
    known: Scores | None = None,
    asked_of: Callable[[Group], bool] | None = None,
) -> Scores:
    """Score the channels of every group that may be cut.

    Args:
        model: The model whose values count.
        groups: Its groups.
        criterion: A registered name, a callable from a group's view to scores of shape (channels,), or what
            `choose` returned.
        seed: For criteria that draw.
        data: Batches for criteria that look at activations or gradients; read when the first group asks.
        stored: Values that count instead of the model's, by parameter name, such as those of a checkpoint
            that are read one by one.
        known: Scores of some groups of this model by this criterion; they are not computed again.
        asked_of: Whether anything is asked of a group; others, that are tied to none of which something is,
            are not run for. None asks of all.

    Returns:
        The scores; groups that the criterion cannot score are named with the reason.

    Raises:
        RequestError: The criterion is unknown, needs data, or returned the wrong shape or numbers that are
            not finite.
        CaptureError: The model does not run on the data, or computes NaN or infinity; the layer is named.
    """
    chosen = as_criterion(criterion)
    require_data(chosen, data is not None)
    _require_own_values(chosen, model, stored)
    asked = _asked(groups, asked_of)
    statistics = None if data is None else Statistics(model, groups, data, chosen.loss, seed, asked)
    by_group: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    parameters = Parameters.of(model, stored)
    for group in groups.prunable:
        if known is not None and group.name in known.by_group:
            by_group[group.name] = known.by_group[group.name]
            continue
        if statistics is not None and group.name not in asked:
            skipped[group.name] = "nothing is asked of it"
            continue
        view = view_group(group, parameters, seed, None if statistics is None else statistics.of(group))
        if not chosen.applies(view):
            skipped[group.name] = f"criterion {chosen.name} needs {chosen.reads}, this group has none"
            continue
        by_group[group.name] = chosen.normalised(checked_scores(chosen.score(view), view, chosen), view)
    return Scores(chosen.name, by_group, skipped)


def _asked(groups: Groups, asked_of: Callable[[Group], bool] | None) -> set[str]:
    """The groups of which something is asked, and those that lose channels with them."""
    asked = {group.name for group in groups.prunable if asked_of is None or asked_of(group)}
    return asked.union(*(names for names, _ in groups.ties if not asked.isdisjoint(names)))


def require_data(criterion: str | Scorer | Criterion, has_data: bool, word: str = "data") -> None:
    """Refuse a criterion that reads data which there is none of.

    Args:
        criterion: What is asked for.
        has_data: Whether there are batches.
        word: The argument that takes them, for messages.

    Raises:
        RequestError: It is unknown, or needs data.
    """
    chosen = as_criterion(criterion)
    if chosen.needs != "weights" and not has_data:
        raise RequestError(
            f"criterion {chosen.name} needs data for {chosen.needs}, there is none",
            do=f"pass {word}=, or choose a criterion of weights such as 'l2'",
        )


def _require_own_values(chosen: Criterion, model: nn.Module, stored: Mapping[str, Tensor] | None) -> None:
    if chosen.needs == "weights":
        return
    if stored is not None or any(parameter.is_meta for parameter in model.parameters()):
        where = "weights= are read from files" if stored is not None else "the model is on the meta device"
        raise RequestError(
            f"criterion {chosen.name} runs the model, but {where}",
            do="load the values into the model first, or choose a criterion of weights",
        )


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
            "mend the weights, or protect that layer" if culprits else "mend the criterion",
        )
    return scores
