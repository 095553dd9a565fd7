"""Sensitivity: what a change of a layer's output changes in the outputs of the model.

An error of a layer early in a residual network is not worth what one before the head is. The dense model is
the teacher: with z its outputs, each a tensor of n entries with the standard deviation d, and v random signs,

    s_o = mean over rows of g_o^2,      g = grad over the layer's output y of  sum of v z / (d sqrt(n))

is in expectation what the square of a change of y_o brings of the squared change of the outputs, as a share
of their variance: the diagonal of the Gauss-Newton matrix of the distance that recovery measures. One random
v for each batch. No labels are needed.

References:
    Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015,
    section 2, for the matrix. Hutchinson, "A stochastic estimator of the trace of the influence matrix",
    1989, for the random signs.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.capture.batches import Sample, Samples, naming_batch
from secateur.capture.replay import Replay, record_tape
from secateur.capture.shadow import shadow
from secateur.capture.switches import as_written
from secateur.coupling.layers import LayerCall
from secateur.errors import NoEffectWarning, PathError
from secateur.graph.node import Graph


def sensitivities(
    model: nn.Module, graph: Graph, layers: Mapping[int, LayerCall], data: Samples, seed: int = 0
) -> dict[int, Tensor]:
    """What the square of a change of each output of each layer counts.

    Args:
        model: The recorded model, with values; not changed.
        graph: Its record.
        layers: Calls of layers, by node.
        data: Batches; labels are not looked at.
        seed: Of the random signs.

    Returns:
        Of each call [outputs], in float64; nothing at all where the model cannot be differentiated or puts
        out no floating-point numbers: a warning says so then.

    Raises:
        PathError: The model takes another path than in its record.
    """
    held = shadow(model)
    squares: dict[int, Tensor] = {}
    rows: dict[int, int] = {}
    for sample in data:
        with naming_batch(sample.number):
            found = _gradients(held, graph, layers, sample, seed)
        if isinstance(found, str):
            what = f"the layers that read a group count alike: the outputs cannot be differentiated ({found})"
            warnings.warn(what, NoEffectWarning, stacklevel=2)
            return {}
        _add(squares, rows, found)
    return {at: found / rows[at] for at, found in squares.items()}


def _add(squares: dict[int, Tensor], rows: dict[int, int], found: Mapping[int, Tensor]) -> None:
    for at, gradient in found.items():
        square = gradient.double().square().sum(0)
        squares[at] = square + squares[at] if at in squares else square
        rows[at] = rows.get(at, 0) + len(gradient)


def _gradients(
    model: nn.Module, graph: Graph, layers: Mapping[int, LayerCall], sample: Sample, seed: int
) -> dict[int, Tensor] | str:
    """The gradients of one batch by the layers' outputs: [rows, outputs]; or why there are none."""
    replay = Replay(record_tape(model, sample.inputs, graph), model, sample.inputs)
    replay.tensors = {value: tensor.detach() for value, tensor in replay.tensors.items()}
    generator = torch.Generator().manual_seed(1_000_003 * seed + sample.number)
    try:
        with as_written(), torch.inference_mode(False), torch.enable_grad():
            watched, outputs = _run(replay, layers)
            if not outputs:
                return "they are no numbers that depend on the layers"
            loss = torch.stack([_spread(one, generator) for one in outputs]).sum()
            found = torch.autograd.grad(loss, list(watched.values()), allow_unused=True)
    except (RuntimeError, PathError) as error:
        return str(error).partition("\n")[0]
    return {
        at: _as_rows(torch.zeros_like(tensor) if gradient is None else gradient, layers[at])
        for (at, tensor), gradient in zip(watched.items(), found, strict=True)
    }


def _run(replay: Replay, layers: Mapping[int, LayerCall]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Run to the end: the layers' outputs by call, and those outputs of the model that depend on them."""
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
    return watched, [one for one in outputs.values() if one.requires_grad and one.is_floating_point()]


def _spread(output: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of an output's entries with random signs, in units of its spread."""
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
    deviation = output.detach().float().std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
    return (signs * output).sum() / (deviation * output.numel() ** 0.5)


def _as_rows(gradient: Tensor, layer: LayerCall) -> Tensor:
    return gradient.movedim(layer.channels_at, -1).reshape(-1, gradient.shape[layer.channels_at])
