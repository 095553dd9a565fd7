"""Sensitivity: what a change of a layer's output changes in the outputs of the model.

An error of a layer early in a residual network is not worth what one before the head is. The dense model is
the teacher: with z its outputs, each a tensor of n entries with the standard deviation d, and v random signs,

    s_o = mean over rows of g_o^2,      g = grad over the layer's output y of  sum of v z / (d sqrt(n))

is in expectation what the square of a change of y_o brings of the squared change of the outputs, as a share
of their variance: the diagonal of the Gauss-Newton matrix of the distance that recovery measures. Sums, n and
d are those of all data, so how it is split into batches does not matter. No labels are needed.

References:
    Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015,
    section 2, for the matrix. Hutchinson, "A stochastic estimator of the trace of the influence matrix",
    1989, for the random signs.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.batches import Samples, naming_batch
from secateur.capture.follower import Step, observe
from secateur.capture.replay import Replay, Tapes
from secateur.capture.shadow import shadow
from secateur.capture.switches import as_written
from secateur.coupling.layers import LayerCall
from secateur.errors import NoEffectWarning, PathError
from secateur.graph.node import Graph


@dataclass(frozen=True)
class Watched:
    """The one output of a call that is no layer.

    Attributes:
        output: The value that it makes.
        channels: The dims that count its channels; over the others the mean is taken.
    """

    output: int
    channels: tuple[int, ...]


_Places: TypeAlias = Mapping[int, LayerCall | Watched]


def sensitivities(
    model: nn.Module, graph: Graph, layers: _Places, data: Samples, seed: int = 0
) -> dict[int, Tensor]:
    """What the square of a change of each output of each layer counts.

    Args:
        model: The recorded model, with values; not changed.
        graph: Its record.
        layers: Calls of layers, or others that are watched, by node.
        data: Batches; labels are not looked at.
        seed: Of the random signs.

    Returns:
        Of each call [outputs], in float64; nothing at all where the model cannot be differentiated or puts
        out no floating-point numbers: a warning says so then.

    Raises:
        PathError: The model takes another path than in its record.
    """
    held = shadow(model)
    tapes = Tapes(held, graph)
    spreads = _spreads(held, graph, data)
    draws = {value: torch.Generator().manual_seed(1_000_003 * seed + value) for value in spreads}

    def loss_of(outputs: Mapping[int, Tensor]) -> Tensor:
        parts = [_signed(one, draws[value]) / spreads[value] for value, one in outputs.items()]
        return torch.stack(parts).sum()

    squares: dict[int, Tensor] = {}
    rows: dict[int, int] = {}
    for sample in data:
        with naming_batch(sample.number):
            replay = Replay(tapes.of(sample.inputs), held, sample.inputs)
            found = _gradients(replay, layers, loss_of)
        if isinstance(found, str):
            what = f"the layers that read a group count alike: the outputs cannot be differentiated ({found})"
            warnings.warn(what, NoEffectWarning, stacklevel=2)
            return {}
        for at, gradient in found.items():
            square = gradient.double().square().sum(0)
            squares[at] = square + squares[at] if at in squares else square
            rows[at] = rows.get(at, 0) + len(gradient)
    return {at: found / rows[at] for at, found in squares.items()}


def _spreads(model: nn.Module, graph: Graph, data: Samples) -> dict[int, float]:
    """Of each floating-point output, by value: d sqrt(n)."""
    count, total, square = Counter[int](), Counter[int](), Counter[int]()

    def on_step(seen: None, step: Step) -> Any:
        results = step.run()
        for ref, result in zip(step.node.outputs, pytree.tree_leaves(results), strict=False):
            if ref is not None and ref.value in graph.outputs and result.is_floating_point():
                count[ref.value] += result.numel()
                total[ref.value] += result.double().sum().item()
                square[ref.value] += result.double().square().sum().item()
        return results

    for sample in data:
        with naming_batch(sample.number):
            observe(model, sample.inputs, graph, lambda *_: None, on_step)
    return {at: max(square[at] - total[at] ** 2 / count[at], 1e-30) ** 0.5 for at in count}


def _gradients(
    replay: Replay, layers: _Places, loss_of: Callable[[Mapping[int, Tensor]], Tensor]
) -> dict[int, Tensor] | str:
    """The gradients of one batch by the layers' outputs: [rows, outputs]; or why there are none."""
    replay.tensors = {value: tensor.detach() for value, tensor in replay.tensors.items()}
    try:
        with as_written(), torch.inference_mode(False), torch.enable_grad():
            watched, outputs = _run(replay, layers)
            if not outputs:
                return "they are no numbers that depend on the layers"
            found = torch.autograd.grad(loss_of(outputs), list(watched.values()), allow_unused=True)
    except (RuntimeError, PathError) as error:
        return str(error).partition("\n")[0]
    return {
        at: _as_rows(torch.zeros_like(tensor) if gradient is None else gradient, layers[at])
        for (at, tensor), gradient in zip(watched.items(), found, strict=True)
    }


def _run(replay: Replay, layers: _Places) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Run to the end: the layers' outputs by call, and those of the model, by value, that depend on them."""
    graph = replay.tape.graph
    watched: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    for at, call in enumerate(replay.tape.calls):
        replay.step()
        if at in layers:
            output = replay.results[0]
            watched[at] = output if output.requires_grad else output.detach().requires_grad_()
            replay.results[0] = watched[at].clone()  # what comes behind may write into it
            if layers[at].output in replay.values:
                replay.values[layers[at].output] = replay.results[0]
        made = zip(call.outputs, replay.results, strict=True)
        outputs |= {value: result for value, result in made if value in graph.outputs}
    return watched, {at: one for at, one in outputs.items() if one.requires_grad and one.is_floating_point()}


def _signed(output: Tensor, draw: torch.Generator) -> Tensor:
    """The sum of an output's entries with random signs."""
    signs = torch.randint(0, 2, output.shape, generator=draw).to(output) * 2 - 1
    return (signs * output).sum()


def _as_rows(gradient: Tensor, layer: LayerCall | Watched) -> Tensor:
    channels = (layer.channels_at,) if isinstance(layer, LayerCall) else layer.channels
    moved = gradient.movedim(channels, tuple(range(-len(channels), 0)))
    return moved.flatten(-len(channels)).flatten(0, -2)
