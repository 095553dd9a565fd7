"""Head paths: from a layer's output to where its channels, head by head, meet what they are multiplied with.

A matrix A of a head, folded into the layer's weight, acts on the head's channels y there. It acts in the same
way on what arrives at the end of the path exactly if the path commutes with it: moves and scales commute with
every A, rotary positions with those that turn each pair and scale it, a norm with none. That is not read off
the operators but tried out, on random numbers in place of y.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from secateur.capture.replay import Replay
from secateur.coupling.layers import LayerCall
from secateur.errors import PathError
from secateur.graph.node import Graph, first_operand
from secateur.recovery.channel_blocks import ChannelBlocks, Mixing

_LEAST = {torch.float64: 1e-9, torch.float32: 1e-4}
"""What counts as rounding beside the numbers themselves; 0.03 for shorter types."""

Held = Mapping[int, Tensor]
Split = Callable[[Replay, Held], Tensor]
"""What arrives: from the values of a run to [rows, positions, width], each row of one head."""


class HeadPath:
    """The calls between a layer and what its heads are needed for.

    Args:
        graph: The record.
        layer: The layer.
        end: The value that arrives, which nothing but `reader` may read.
        wanted: Values that are computed on the way, too.
        reader: The call that reads the end.
    """

    def __init__(
        self, graph: Graph, layer: LayerCall, end: int, wanted: tuple[int, ...], reader: int
    ) -> None:
        self.graph, self.layer, self.end, self.reader = graph, layer, end, reader
        self.nodes = _before(graph, {end, *wanted}, layer.node.index)
        descended = {layer.output}
        for index in self.nodes:
            if not descended.isdisjoint(graph.nodes[index].reads):
                descended.update(graph.nodes[index].makes)
        self.path = [at for at in _before(graph, {end}, layer.node.index) if self._reads(at, descended)]
        passed = {layer.output, *(value for at in self.path for value in graph.nodes[at].makes)}
        known = {*self.path, reader}
        self.exits = sorted(
            {node.index for value in passed for node in graph.readers[value] if node.index not in known}
        )
        self.passed = passed

    def _reads(self, index: int, values: set[int]) -> bool:
        return not values.isdisjoint(self.graph.nodes[index].reads)

    def run(
        self, replay: Replay, output: Tensor | None = None, *, with_exits: bool = False
    ) -> dict[int, Tensor]:
        """Compute what arrives, in a replay that stands at the layer and goes on standing there.

        Args:
            replay: It.
            output: What the layer puts out; None for what it does put out.
            with_exits: Compute what else reads the path, too.

        Returns:
            The values that were computed.
        """
        made = replay.results_of(self.layer.node.index)[0] if output is None else output.clone()
        held = {self.layer.output: made}
        for index in sorted({*self.nodes, *self.exits}) if with_exits else self.nodes:
            results = replay.results_of(index, held)
            outputs = zip(replay.tape.calls[index].outputs, results, strict=True)
            held.update({value: result for value, result in outputs if value is not None})
        return held

    def obstacle(self, replay: Replay) -> str:
        """Why nothing can be tried out on the path; empty if it can."""
        if any(value in self.graph.outputs for value in self.passed):
            return "the model returns what it makes"
        known = {value for at in self.nodes for value in self.graph.nodes[at].makes} | {self.layer.output}
        for index in sorted({*self.nodes, *self.exits}):
            func, node = replay.tape.calls[index].func, self.graph.nodes[index]
            if isinstance(func, HigherOrderOperator):
                return f"{node.op} lies behind it"
            written = first_operand(node)
            if func._schema.is_mutable and node.op != "aten.detach_" and written not in known:
                return f"{node.op} writes in place behind it"
        for index in self.exits:
            missing = [
                value for value in self.graph.nodes[index].reads if not (value in known or value in replay)
            ]
            if missing:
                return f"its output is also read by {self.graph.nodes[index]}"
        return ""


@dataclass(frozen=True, eq=False)
class HeadMap:
    """What arrives of which block.

    Attributes:
        blocks: The blocks of the layer that arrive at all, in their order.
        rows: For each row that arrives, which of these blocks it is of.
        is_free: Every matrix of a block commutes with the path; else those that `turning` names.
    """

    blocks: Tensor
    rows: Tensor
    is_free: bool


class _Probe:
    """Tries a path out on random numbers."""

    def __init__(self, path: HeadPath, blocks: ChannelBlocks, replay: Replay, split: Split) -> None:
        self.path, self.blocks, self.replay, self.split = path, blocks, replay, split
        self.like = replay.results_of(path.layer.node.index)[0]
        self.draw = torch.Generator().manual_seed(path.layer.node.index)
        self.least = _LEAST.get(self.like.dtype, 3e-2)

    def random(self) -> Tensor:
        """An output of the layer that is as good as any other."""
        made = torch.randn(self.like.shape, generator=self.draw, dtype=torch.float64, device="cpu")
        return made.to(self.like) * self.like.float().square().mean().sqrt().to(self.like)

    def at(self, output: Tensor) -> Tensor:
        """What arrives of it."""
        return self.split(self.replay, self.path.run(self.replay, output))

    def rows_of(self, output: Tensor) -> Tensor | None:
        """For each row that arrives the number of its block; None where that is not one block."""
        found: Tensor | None = None
        for number, at in enumerate(self.blocks.cut):
            alone = torch.zeros_like(output)
            alone[..., at.to(output.device)] = output[..., at.to(output.device)]
            hit = self.at(alone).abs().amax((1, 2)) > 0
            found = torch.full((len(hit),), -1, device=hit.device) if found is None else found
            if bool((found[hit] >= 0).any()):
                return None
            found[hit] = number
        return None if found is None or bool((found < 0).any()) else found.cpu()

    def commutes(self, output: Tensor, rows: Tensor, mixed: Tensor) -> bool:
        """Whether matrices of the blocks that arrive, [blocks, width, width], act on what arrives."""
        mixed = mixed.to(output.device)
        there, numbers = torch.unique(rows, return_inverse=True)
        changed = output.clone()
        for number, block in enumerate(there.tolist()):
            at = self.blocks.cut[block].to(output.device)
            changed[..., at] = (output[..., at].double() @ mixed[number].T).to(output)
        held, other = (self.path.run(self.replay, one, with_exits=True) for one in (output, changed))
        before, after = self.split(self.replay, held), self.split(self.replay, other)
        wanted = before @ mixed[numbers.to(mixed.device)].to(before).transpose(1, 2)
        if not _is_near(after, wanted, self.least):
            return False
        leaving = {value for at in self.path.exits for value in self.path.graph.nodes[at].makes}
        leaving |= {value for value in self.path.passed if self._leaves(value)}
        return all(_is_near(other[value], held[value], self.least) for value in leaving if value in held)

    def _leaves(self, value: int) -> bool:
        """Whether nothing on the path reads a value, such as a part that was split off."""
        graph = self.path.graph
        return value != self.path.end and not any(
            node.index in self.path.path for node in graph.readers[value]
        )


def explore(
    path: HeadPath, blocks: ChannelBlocks, replay: Replay, split: Split, classes: Mixing | None
) -> HeadMap | str:
    """Find out which block arrives where, and which matrices commute with the path.

    Args:
        path: The path.
        blocks: The blocks of the layer's output.
        replay: Stands at the layer.
        split: Reads off what arrives.
        classes: Matrices to be tried where not all commute.

    Returns:
        What was found, or why there is nothing to be done.
    """
    obstacle = path.obstacle(replay)
    if obstacle:
        return obstacle
    probe = _Probe(path, blocks, replay, split)
    try:
        output = probe.random()
        if bool(probe.at(torch.zeros_like(output)).abs().max() > probe.least * probe.at(output).abs().max()):
            return "something is added to it behind"
        rows = probe.rows_of(output)
        if rows is None:
            return "its heads are mixed behind it"
        there = torch.unique(rows)
        size = (len(there), blocks.width, blocks.width)
        free = torch.randn(size, generator=probe.draw, dtype=torch.float64, device="cpu")
        numbers = torch.searchsorted(there, rows)
        if probe.commutes(output, rows, free):
            return HeadMap(there, numbers, is_free=True)
        if classes is not None:
            draws = (len(there), len(classes.rows))
            some = torch.randn(draws, generator=probe.draw, dtype=torch.float64, device="cpu")
            if probe.commutes(output, rows, classes.matrix(some)):
                return HeadMap(there, numbers, is_free=False)
    except PathError as error:
        return f"it cannot be tried out: {str(error).partition(chr(10))[0]}"
    return "what lies behind it is more than moves, scales and rotary positions"


def _before(graph: Graph, values: set[int], index: int) -> list[int]:
    """The calls behind one that values are computed by."""
    found: set[int] = set()
    fresh = list(values)
    while fresh:
        node = graph.maker.get(fresh.pop())
        if node is not None and node.index > index and node.index not in found:
            found.add(node.index)
            fresh.extend(node.reads)
    return sorted(found)


def maker_layers(
    graph: Graph, value: int, layers: Mapping[int, LayerCall], but: frozenset[int] = frozenset()
) -> list[LayerCall]:
    """The layers that a value is computed from, with no other layer in between.

    Args:
        graph: The record.
        value: It.
        layers: All layers by their calls.
        but: Values that are not followed.
    """
    found: dict[int, LayerCall] = {}
    seen: set[int] = set()
    fresh = [value]
    while fresh:
        node = graph.maker.get(fresh.pop())
        if node is None or node.index in seen:
            continue
        seen.add(node.index)
        if node.index in layers:
            found[node.index] = layers[node.index]
        else:
            fresh.extend(read for read in node.reads if read not in but)
    return [found[at] for at in sorted(found)]


def _is_near(one: Tensor, other: Tensor, least: float) -> bool:
    one, other = one.double(), other.double()
    return one.shape == other.shape and bool(
        (one - other).abs().max() <= least * other.abs().max().clamp_min(1e-30) if one.numel() else True
    )
