"""Stretches: a record as a row of blocks, each small enough to be improved by itself.

A seam is a place between two calls across which the network hands on one tensor: behind a residual addition,
say, or between two layers of a plain chain, never inside of a residual branch. Tensors that come from inputs
or buffers alone (attention masks, tables of positions) do not count; they are the same in a cut network. From
the beginning on, a stretch ends at the first seam by which two layers have run, at the last such one before
the next layer: an activation goes with the layer before it. A network whose tensors wait for long (a U-Net)
has few seams; what is longer than eight layers is divided where the fewest tensors cross, nearest to the
middle.
"""

from collections.abc import Callable

from secateur.coupling.layers import layer_of
from secateur.graph.node import Graph

FEWEST_LAYERS = 2
"""A single layer is what least squares solve already."""
_MOST_LAYERS = 8


def stretches(graph: Graph) -> list[range]:
    """Divide the calls of a record.

    Args:
        graph: The record.

    Returns:
        Ranges of calls that follow each other without a gap, the first from 0, the last to the end; none is
        without two layers, except where the network has fewer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.capture.recording import capture
        >>> layers = [layer for _ in range(5) for layer in (nn.Linear(3, 3), nn.ReLU())]
        >>> stretches(capture(nn.Sequential(*layers), torch.zeros(1, 3)))
        [range(0, 4), range(4, 10)]
    """
    before = _layers_before(graph)
    crossing = _crossing(graph)
    end, count = len(graph.nodes), before[-1]
    last_seam = {before[at]: at for at in range(end) if crossing[at] <= 1}
    ends = [0]
    for layers, at in last_seam.items():
        if layers - before[ends[-1]] >= FEWEST_LAYERS and count - layers >= FEWEST_LAYERS:
            ends.append(at)
    whole = [range(one, two) for one, two in zip(ends, [*ends[1:], end], strict=True)]
    return [part for one in whole for part in _divided(one, before, crossing.__getitem__)]


def _layers_before(graph: Graph) -> list[int]:
    """Before each call, and behind the last one: how many layers have run."""
    found = [0]
    for node in graph.nodes:
        found.append(found[-1] + (layer_of(graph, node) is not None))
    return found


def _crossing(graph: Graph) -> list[int]:
    """Before each call: how many tensors that inputs and parameters took part in are still to be read."""
    learned = {value for value in graph.names if graph.values[value].kind == "parameter"}
    for node in graph.nodes:
        if not learned.isdisjoint(node.reads):
            learned.update(node.makes)
    change = [0] * (len(graph.nodes) + 1)
    for value in (graph.from_inputs & learned) - set(graph.inputs):
        readers = graph.readers[value]
        if readers:
            change[graph.maker[value].index + 1] += 1
            change[readers[-1].index + 1] -= 1
    found, now = [], 0
    for one in change[:-1]:
        now += one
        found.append(now)
    return found


def _divided(whole: range, before: list[int], crossing: Callable[[int], int]) -> list[range]:
    """A stretch in parts of so many layers at most."""
    first, last = before[whole.start], before[whole.stop]
    if last - first <= _MOST_LAYERS:
        return [whole]
    inside = [at for at in whole if FEWEST_LAYERS <= before[at] - first <= last - first - FEWEST_LAYERS]
    # Of equals the last: what follows a layer without being one goes with it.
    at = min(reversed(inside), key=lambda at: (crossing(at), abs(2 * before[at] - first - last)))
    parts = range(whole.start, at), range(at, whole.stop)
    return [part for one in parts for part in _divided(one, before, crossing)]


def handed_on(graph: Graph, part: range) -> list[int]:
    """The values of numbers that a stretch makes and later calls read, or that the model returns.

    Args:
        graph: The record.
        part: The calls of the stretch.
    """
    made = [value for at in part for value in graph.nodes[at].makes]
    return [
        value
        for value in made
        if graph.values[value].dtype.startswith(("float", "bfloat"))
        and (value in graph.outputs or any(node.index >= part.stop for node in graph.readers[value]))
    ]


def name_of(graph: Graph, part: range) -> str:
    """The first layer of a stretch and its last; without a layer its first call.

    Args:
        graph: The record.
        part: The calls of the stretch.
    """
    layers = [layer.name for at in part if (layer := layer_of(graph, graph.nodes[at])) is not None]
    names = list(dict.fromkeys(layers)) or [str(graph.nodes[part.start])]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
