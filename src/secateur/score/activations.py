"""Activations: one pass over the data, in which every watched value of every batch is taken account of.

The model runs beside its record (`capture/follow.py`): a copy, in eval mode, without gradients and without
hooks, so there is nothing to remove when it fails. A value is looked at when it is made, before an operator
that writes in place can change it, and let go.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur.capture.batches import Sample, Samples, naming_batch, nan_in
from secateur.capture.follower import Step, follow
from secateur.capture.inputs import map_inputs
from secateur.capture.recorder import shadow
from secateur.errors import CaptureError
from secateur.graph.node import Graph, Node
from secateur.score.moments import Moments, is_finite
from secateur.score.values import ReadValue

Place = tuple[int, int]
"""A value and which of its dims holds channels."""

T = TypeVar("T")


def gather_moments(
    model: nn.Module, graph: Graph, values: Iterable[ReadValue], data: Samples
) -> dict[Place, Moments]:
    """Take the moments of activations over all data, for each position of a dim.

    Args:
        model: The recorded model; a copy runs.
        graph: Its record.
        values: What to look at.
        data: All of it is read, batch by batch.

    Raises:
        CaptureError: The model does not run on a batch, or computes NaN or infinity; the layer is named.
        PathError: It takes another path than in its record.
    """

    def look(tensor: Tensor, value: ReadValue) -> Moments | None:
        moments = Moments.of(tensor.movedim(value.dim, 0).flatten(1))
        return moments if is_finite(moments) else None

    return _gather(model, graph, values, data, look, Moments.__add__)


def gather_ranks(
    model: nn.Module, graph: Graph, values: Iterable[ReadValue], data: Samples
) -> dict[Place, tuple[Tensor, int]]:
    """Sum the ranks of feature maps over all samples, and count the samples.

    Args:
        model: The recorded model; a copy runs.
        graph: Its record.
        values: What to look at; those that are no maps are left out.
        data: All of it is read, batch by batch.

    Raises:
        CaptureError: As for `gather_moments`.
        PathError: As for `gather_moments`.
    """

    def look(tensor: Tensor, value: ReadValue) -> tuple[Tensor, int] | None:
        if not bool(torch.isfinite(tensor).all()):
            return None
        maps = tensor.movedim(value.dim, 1)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        return torch.linalg.matrix_rank(maps).double().sum(0), len(maps)

    maps = [value for value in values if value.has_maps]
    return _gather(model, graph, maps, data, look, lambda one, two: (one[0] + two[0], one[1] + two[1]))


def _gather(
    model: nn.Module,
    graph: Graph,
    values: Iterable[ReadValue],
    data: Samples,
    look: Callable[[Tensor, ReadValue], T | None],
    add: Callable[[T, T], T],
) -> dict[Place, T]:
    watched: dict[int, dict[int, ReadValue]] = {}
    for value in values:
        watched.setdefault(value.value, {})[value.dim] = value
    found: dict[Place, T] = {}
    held = shadow(model).eval()
    for sample in data:

        def on_step(step: Step, sample: Sample = sample) -> Any:
            output = step.run()
            for value, tensor in _outputs(step.node, output):
                for dim, place in watched.get(value, {}).items():
                    _require_size(tensor, place, step.node, sample.number)
                    seen = look(tensor, place)
                    if seen is None:
                        raise _not_finite(model, graph, sample, step.node)
                    found[value, dim] = add(found[value, dim], seen) if (value, dim) in found else seen
            return output

        with naming_batch(sample.number), torch.random.fork_rng():
            torch.manual_seed(0)  # for models that draw in eval mode
            follow(held, map_inputs(sample.inputs, torch.clone), graph, on_step)
    return found


def _outputs(node: Node, output: Any) -> Iterable[tuple[int, Tensor]]:
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    flat = [part for item in outputs for part in (item if isinstance(item, (tuple, list)) else (item,))]
    for ref, tensor in zip(node.outputs, flat, strict=False):
        if ref is not None and isinstance(tensor, Tensor):
            yield ref.value, tensor


def _require_size(tensor: Tensor, place: ReadValue, node: Node, number: int) -> None:
    if tensor.shape[place.dim] != place.size:
        raise CaptureError(
            f"{node} gives {tensor.shape[place.dim]} channels on batch {number} of the data, "
            f"{place.size} on the example inputs",
            do="pass batches of the size of the example inputs: the model folds samples into channels",
        )


def _not_finite(model: nn.Module, graph: Graph, sample: Sample, seen: Node) -> CaptureError:
    """Run the batch once more to find the first operator that makes such numbers."""
    first: list[Node] = []

    def on_step(step: Step) -> Any:
        output = step.run()
        # minus infinity is how attention masks say no
        bad = (
            bool((torch.isnan(tensor) | torch.isposinf(tensor)).any())
            for _, tensor in _outputs(step.node, output)
            if tensor.is_floating_point()
        )
        if not first and any(bad):
            first.append(step.node)
        return output

    with torch.random.fork_rng():
        torch.manual_seed(0)
        follow(shadow(model).eval(), map_inputs(sample.inputs, torch.clone), graph, on_step)
    return CaptureError(
        f"activations are NaN or infinite on batch {sample.number} of the data{nan_in(sample.inputs)}, "
        f"first after {first[0] if first else seen}",
        do="mend the weights of that layer, or the data",
    )


def joined(found: Mapping[Place, Moments], value: ReadValue) -> Moments:
    """The moments of a group's channels in one value."""
    return found[value.value, value.dim].join(value.places.to(found[value.value, value.dim].mean.device))
