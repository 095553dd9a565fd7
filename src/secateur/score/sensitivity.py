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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from secateur.capture.batches import Samples, naming_batch
from secateur.capture.replay import Replay, Tapes
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


def sensitivities(tapes: Tapes, layers: _Places, data: Samples, seed: int = 0) -> dict[int, Tensor]:
    """What the square of a change of each output of each layer counts.

    Args:
        tapes: Of the recorded model, with values; not changed.
        layers: Calls of layers, or others that are watched, by node.
        data: Batches; labels are not looked at.
        seed: Of the random signs.

    Returns:
        Of each call [outputs], in float64; nothing at all where the model cannot be differentiated or puts
        out no floating-point numbers: a warning says so then.

    Raises:
        PathError: The model takes another path than in its record.
    """
    outputs = tapes.graph.outputs
    spreads = {value: _Spread() for value in outputs if _is_floating(tapes.graph, value)}
    draws = {value: torch.Generator().manual_seed(1_000_003 * seed + value) for value in spreads}
    if len(spreads) > 1:  # of a single one the spread can be divided by at the end
        _measure(spreads, tapes, data)
    known = {value: one.size if len(spreads) > 1 else 1.0 for value, one in spreads.items()}

    def loss_of(outputs: Mapping[int, Tensor]) -> Tensor:
        if len(spreads) == 1:
            for value, one in outputs.items():
                spreads[value].add(one.detach())
        parts = [_signed(one, draws[value]) / known[value] for value, one in outputs.items()]
        return torch.stack(parts).sum()

    squares: dict[int, Tensor] = {}
    rows: dict[int, int] = {}
    for sample in data:
        with naming_batch(sample.number):
            replay = Replay(tapes.of(sample.inputs), tapes.model, sample.inputs)
            found = _gradients(replay, layers, loss_of)
        if isinstance(found, str):
            what = f"the layers that read a group count alike: the outputs cannot be differentiated ({found})"
            warnings.warn(what, NoEffectWarning, stacklevel=2)
            return {}
        for at, gradient in found.items():
            square = _squares(gradient, layers[at])
            squares[at] = square + squares[at] if at in squares else square
            rows[at] = rows.get(at, 0) + gradient.numel() // len(square)
    size = prod(one.size for one in spreads.values()) if len(spreads) == 1 else 1.0
    return {at: found / rows[at] / size**2 for at, found in squares.items()}


@dataclass
class _Spread:
    """The sums of an output's entries, over all data."""

    count: int = 0
    total: float = 0.0
    square: float = 0.0

    def add(self, output: Tensor) -> None:
        self.count += output.numel()
        self.total += output.double().sum().item()
        self.square += output.double().square().sum().item()

    @property
    def size(self) -> float:
        """The standard deviation times sqrt(n)."""
        return max(self.square - self.total**2 / max(self.count, 1), 1e-30) ** 0.5


def _is_floating(graph: Graph, value: int) -> bool:
    return graph.values[value].dtype.startswith(("float", "bfloat"))


def _measure(spreads: Mapping[int, _Spread], tapes: Tapes, data: Samples) -> None:
    """Run the model over the data for its outputs alone."""
    for sample in data:
        with naming_batch(sample.number):
            replay = Replay(tapes.of(sample.inputs), tapes.model, sample.inputs)
            for at, call in enumerate(replay.tape.calls):
                replay.advance(at + 1)
                for value, result in zip(call.outputs, replay.results, strict=True):
                    if value is not None and value in spreads:
                        spreads[value].add(result)


def _gradients(
    replay: Replay, layers: _Places, loss_of: Callable[[Mapping[int, Tensor]], Tensor]
) -> dict[int, Tensor] | str:
    """The gradients of one batch by the layers' outputs; or why there are none."""
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
        at: torch.zeros_like(tensor) if gradient is None else gradient
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


def _squares(gradient: Tensor, layer: LayerCall | Watched) -> Tensor:
    """The squares for each output, summed over the rows."""
    channels = (layer.channels_at,) if isinstance(layer, LayerCall) else layer.channels
    kept = {at % gradient.dim() for at in channels}
    rows = [at for at in range(gradient.dim()) if at not in kept]
    norms = torch.linalg.vector_norm(gradient, dim=rows, dtype=torch.float64) if rows else gradient.double()
    return norms.square().flatten()
