"""Activations: one pass over the data, in which every watched value of every batch is taken account of.

The model runs beside its record (`capture/follower.py`): a fresh copy for each batch, in eval mode, without
gradients and without hooks, so there is nothing to remove when it fails. A value is looked at when it is
made, before an operator that writes in place can change it, and let go.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur.capture.batches import Sample, Samples, naming_batch, nan_in
from secateur.capture.follower import Step, observe
from secateur.capture.inputs import as_real
from secateur.errors import CaptureError
from secateur.graph.node import Graph, Node
from secateur.score.values import ReadValue

Place = tuple[int, int]
"""A value and which of its dims holds channels."""

T = TypeVar("T")


def gather(
    model: nn.Module,
    graph: Graph,
    values: Iterable[ReadValue],
    data: Samples,
    look: Callable[[Tensor, ReadValue], T | None],
    add: Callable[[T, T], T],
) -> dict[Place, T]:
    """Look at activations over all data.

    Args:
        model: The recorded model; a copy runs.
        graph: Its record.
        values: What to look at.
        data: All of it is read, batch by batch.
        look: What one batch says; None where its numbers are not finite.
        add: What two batches say together.

    Raises:
        CaptureError: The model does not run on a batch, or computes NaN or infinity; the layer is named.
        PathError: It takes another path than in its record.
    """
    watched: dict[int, dict[int, ReadValue]] = {}
    for value in values:
        watched.setdefault(value.value, {})[value.dim] = value
    found: dict[Place, T] = {}
    for sample in data:

        def on_step(seen: dict[Place, T], step: Step, sample: Sample = sample) -> Any:
            output = step.run()
            for value, tensor in _outputs(step.node, output):
                for dim, place in watched.get(value, {}).items():
                    _require_size(tensor, place, step.node, sample.number)
                    looked = look(tensor, place)
                    if looked is None:
                        raise _not_finite(model, graph, sample, step.node)
                    seen[value, dim] = looked
            return output

        with naming_batch(sample.number):
            seen = observe(model, sample.inputs, graph, lambda *_: dict[Place, T](), on_step)
        found.update({at: add(found[at], one) if at in found else one for at, one in seen.items()})
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

    def on_step(seen: list[Node], step: Step) -> Any:
        output = step.run()
        # minus infinity is how attention masks say no
        bad = (
            bool((torch.isnan(tensor) | torch.isposinf(tensor)).any())
            for tensor in (as_real(tensor) for _, tensor in _outputs(step.node, output))
            if tensor.is_floating_point()
        )
        if not seen and any(bad):
            seen.append(step.node)
        return output

    first = observe(model, sample.inputs, graph, lambda *_: list[Node](), on_step)
    return CaptureError(
        f"activations are NaN or infinite on batch {sample.number} of the data{nan_in(sample.inputs)}, "
        f"first after {first[0] if first else seen}",
        do="mend the weights of that layer, or the data",
    )
