"""Rank the channels of one layer by a registered criterion.

Groups couple the channels of several layers; here one layer is looked at by itself, so the criterion sees its
weight, the batch-norm scale behind it, and its own activation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.errors import RequestError
from secateur.graph.node import Graph
from secateur.score import Criterion, GroupView, MemberView, require_data
from secateur.score.criterion import Scorer, as_criterion
from secateur.score.observations import Observations
from secateur.score.scores import checked_scores
from secateur.score.values import ReadValue
from secateur.sweep.places import ChannelPlace


@dataclass(frozen=True, eq=False)
class _Observed:
    """What the data says of the layer's activation."""

    observations: Observations

    def evidence(self, kind: str) -> Sequence[Any]:
        return self.observations.of(kind, self.observations.values)

    @property
    def consumers(self) -> Any:
        raise RequestError(
            "a sweep of one layer does not look at the layers that read it",
            do="choose a criterion of weights or activations, such as activation-mean",
        )

    @property
    def gradients(self) -> Any:
        raise RequestError(
            "a sweep of one layer has no gradients",
            do="choose a criterion of weights or activations, such as activation-mean",
        )


def score_channels(
    model: nn.Module,
    graph: Graph,
    place: ChannelPlace,
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
        samples = Samples(data, model, example_inputs)
        observed = _Observed(Observations(model, graph, [value], samples))
    view = GroupView(place.layer, place.size, tuple(_members(model, graph, place)), seed, observed)
    if not chosen.applies(view):
        raise RequestError(
            f"criterion {chosen.name} needs {chosen.reads}, layer {place.layer} has none",
            do="choose another criterion",
        )
    return checked_scores(chosen.score(view), view, chosen)


def _members(model: nn.Module, graph: Graph, place: ChannelPlace) -> Iterable[MemberView]:
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
