"""Repair: the layers behind dropped blocks learn to make do without them.

The network without some blocks is run as the original whose additions on their residual paths give back the
stream, in step with the original itself. So every value has its counterpart, and `refit` can solve for each
layer that comes later what it must put out: the branches of later blocks take on what the stream lacks. The
blocks are dropped from the refitted copy afterwards.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.capture.replay import Replay, Tape
from secateur.coupling import Groups
from secateur.coupling.layers import LayerCall
from secateur.depth.blocks import Block
from secateur.graph.keep import Kept
from secateur.graph.node import refs_in
from secateur.recovery import Recovery, Subject
from secateur.recovery.steps.refit import LayerRefit


def repaired(
    model: nn.Module,
    example_inputs: Any,
    groups: Groups,
    blocks: Sequence[Block],
    data: Sequence[Any],
) -> tuple[nn.Module, tuple[Recovery, ...]]:
    """Refit what comes behind some blocks so that the outputs are near the dense ones without them.

    Args:
        model: The original; not changed.
        example_inputs: Its inputs.
        groups: Its groups.
        blocks: The blocks that will be dropped.
        data: Batches of inputs.

    Returns:
        A copy of the original that is right once the blocks are dropped, and what was done to each layer.
        Blocks that also change the precision of their stream are not followed: then nothing is done.

    Raises:
        PathError: A batch takes another path than the example inputs.
        CaptureError: A layer reads or should put out NaN or infinity.
    """
    cut = copy_module(model)
    if any(block.casts for block in blocks):
        note = "a dropped block changes the precision of its stream"
        return cut, (Recovery("refit", blocks[0].name, "left alone", note),)
    subject = Subject(model, cut, example_inputs, groups, Kept({}), data)
    with torch.inference_mode(False), torch.no_grad():
        notes = _BehindBlocks(subject, cut, blocks).run(partial(SilencedReplay, blocks))
    return cut, tuple(notes)


class _BehindBlocks(LayerRefit):
    """Refits the layers that come later than the first of some blocks, and lie in none of them."""

    def __init__(self, subject: Subject, cut: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__(subject, cut)
        self.gone = frozenset().union(*(block.nodes for block in blocks))
        adds = [index for block in blocks for index in block.adds]
        self.reached = _reached(self, min(adds))

    def reads_less(self, layer: LayerCall) -> bool:
        """Whether it stays, and what it reads is not what it was."""
        return layer.node.index not in self.gone and layer.input in self.reached


def _reached(refit: LayerRefit, first: int) -> Collection[int]:
    """The values that depend on what a call makes."""
    found: set[int] = set(refit.graph.nodes[first].makes)
    for node in refit.graph.nodes[first + 1 :]:
        if not found.isdisjoint(node.reads):
            found.update(node.makes)
    return found


class SilencedReplay(Replay):
    """A replay of the original in which the additions of some blocks give back the stream.

    Args:
        blocks: The blocks.
        tape: As for `Replay`.
        model: As for `Replay`.
        inputs: As for `Replay`.
    """

    def __init__(self, blocks: Sequence[Block], tape: Tape, model: nn.Module, inputs: Any) -> None:
        nodes = tape.graph.nodes
        self.streams: dict[int, int] = {
            index: next(refs_in(nodes[index].args[name])).value
            for block in blocks
            for path in (block.adds, block.changes)
            for index, name in path.items()
        }
        super().__init__(tape, model, inputs)

    def _run(self, index: int, instead: Mapping[int, Tensor]) -> list[Any]:
        stream = self.streams.get(index)
        if stream is None:
            return super()._run(index, instead)
        held = (instead[stream] if stream in instead else self[stream]).clone()
        results = super()._run(index, instead)
        results[0].copy_(held)  # the call may write in place, into the stream or into the branch
        return results
