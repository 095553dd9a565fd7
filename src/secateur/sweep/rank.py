"""Rank the channels of one layer by a registered criterion.

Groups couple the channels of several layers; here one layer is looked at by itself, so the criterion sees its
weight, the batch-norm scale behind it, and its own activation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.errors import RequestError
from secateur.graph.node import Graph
from secateur.score import Criterion, GroupView, MemberView, require_data
from secateur.score.activations import gather_moments, gather_ranks
from secateur.score.criterion import Scorer, as_criterion
from secateur.score.moments import Moments
from secateur.score.scores import checked_scores
from secateur.score.values import ReadValue
from secateur.sweep.places import Place


@dataclass(frozen=True, eq=False)
class _Observed:
    """What the data says of the layer's activation."""

    model: nn.Module
    graph: Graph
    value: ReadValue
    data: Samples

    @cached_property
    def activations(self) -> Sequence[Moments]:
        found = gather_moments(self.model, self.graph, [self.value], self.data)
        return list(found.values())

    @cached_property
    def ranks(self) -> Sequence[Tensor]:
        found = gather_ranks(self.model, self.graph, [self.value], self.data)
        return [total / count for total, count in found.values()]

    @property
    def gradients(self) -> Any:
        raise RequestError(
            "a sweep of one layer has no gradients",
            do="choose a criterion of weights or activations, such as activation-mean",
        )


def score_channels(
    model: nn.Module,
    graph: Graph,
    place: Place,
    criterion: str | Scorer | Criterion,
    data: Iterable[Any] | None,
    example_inputs: Any,
    seed: int = 0,
) -> Tensor:
    """Score the output channels of one layer; larger means keep.

    Args:
        model: The recorded model, in eval mode.
        graph: Its record.
        place: The layer.
        criterion: A registered name, a callable from a group's view to scores, or what `choose` returned.
        data: Batches, for criteria of activations.
        example_inputs: Inputs that the model was recorded with.
        seed: For criteria that draw.

    Returns:
        Scores of shape (channels,), float64.

    Raises:
        RequestError: The criterion is unknown, needs data that is not there, gradients, or what the layer
            does not have.
    """
    chosen = as_criterion(criterion)
    require_data(chosen, data is not None)
    if chosen.needs == "gradients":
        raise RequestError(
            f"criterion {chosen.name} needs gradients; a sweep of one layer has none",
            do="choose a criterion of weights or activations, such as activation-mean",
        )
    observed = None
    if data is not None:
        shape = graph.values[place.activation].shape
        places = torch.arange(place.size).unsqueeze(1)
        value = ReadValue(place.activation, place.dim, place.size, places, len(shape) == 4)
        observed = _Observed(model, graph, value, Samples(data, model, example_inputs))
    view = GroupView(place.layer, place.size, tuple(_members(model, graph, place)), seed, observed)
    if not chosen.applies(view):
        raise RequestError(
            f"criterion {chosen.name} needs {chosen.reads}, layer {place.layer} has none",
            do="choose another criterion",
        )
    return checked_scores(chosen.score(view), view, chosen)


def _members(model: nn.Module, graph: Graph, place: Place) -> Iterable[MemberView]:
    module = model.get_submodule(place.layer)
    weight = getattr(module, "weight", None)
    is_transposed = getattr(module, "transposed", False)
    if isinstance(weight, Tensor) and weight.ndim > 1:
        rows = weight.detach().transpose(0, 1) if is_transposed else weight.detach()
        if len(rows) == place.size:
            op = "aten.linear" if isinstance(module, nn.Linear) else f"aten.conv{weight.ndim - 2}d"
            name = f"{place.layer}.weight"
            yield MemberView(name, lambda: rows.flatten(1), op, "weight", False, weight.ndim)
    if place.scale is not None:
        name = graph.names[place.scale][0]
        scale = model.get_parameter(name).detach()
        yield MemberView(name, lambda: scale.unsqueeze(1), "aten.batch_norm", "weight", False, 1)
