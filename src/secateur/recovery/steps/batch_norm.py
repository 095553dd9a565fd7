"""Batch-norm: the running statistics become those of the cut model.

A batch norm behind a cut still divides by the spread of what the dense model computed. Here its statistics
are those of its own input over all of the data: mean and unbiased variance over every value, so each sample
counts once, whatever the sizes of the batches. They are taken in depth order, from activations that the
batch norms before have normalised with their new statistics, as the model will do when it is used: a batch
of one sample on maps of one pixel is no special case, and nothing depends on momentum or on training mode.

Only layers are changed that some lost channel reaches. The others see what they always saw, and their
statistics are those of all training data, which are better than any that a few batches give.

References:
    Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 (precise statistics).
    https://arxiv.org/abs/2105.07576
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.errors import CaptureError
from secateur.graph.node import Node, Ref
from secateur.recovery.layers import is_batch_norm, tensors_of
from secateur.recovery.lockstep import Pair, start
from secateur.recovery.reach import reached_values
from secateur.recovery.step import Recovery, Subject, step


@dataclass
class _Statistics:
    """Mean and sum of squared differences from it, of every channel."""

    count: int
    mean: Tensor
    squares: Tensor

    def add(self, values: Tensor) -> None:
        """Join the values of one batch, in float64: [channels, values] (Chan et al., 1979)."""
        count = values.shape[1]
        mean = values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        total, apart = self.count + count, mean - self.mean
        self.mean = self.mean + apart * count / total
        self.squares = self.squares + squares + apart.square() * self.count * count / total
        self.count = total


@step("batch-norm", needs_data=True)
@torch.no_grad()
def batch_norm(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Re-estimate the running statistics of every batch norm that lost channels reach.

    Args:
        subject: The cut model and where it comes from.

    Returns:
        A new model, and for each changed layer over how many values the statistics were taken.

    Raises:
        CaptureError: The model computes NaN or infinity.
    """
    cut = copy_module(subject.cut)
    nodes = _calls_of_reached(subject)
    last = {_held(node): node for node in nodes}
    if not nodes:
        return cut, []
    lockstep = start(subject, cut, [node.index for node in nodes], with_dense=False)
    notes = [Recovery("batch-norm", "data", "limit", lockstep.note)] if lockstep.note else []
    found: dict[int, _Statistics] = {}
    named = tensors_of(cut)
    for node in nodes:
        held = _held(node)
        for pair in lockstep.pairs:
            pair.cut.advance(node.index)
            values = _values(pair, node)
            if held not in found:
                none = torch.zeros_like(values[:, 0])
                found[held] = _Statistics(0, none, none)
            found[held].add(values)
        if node is last[held]:
            _write(subject, named, node, found[held])
    return cut, notes + [_told(subject, node, found[held]) for held, node in last.items()]


def _calls_of_reached(subject: Subject) -> list[Node]:
    """All calls of each batch norm of which lost channels reach one, as its statistics are those of all."""
    graph = subject.groups.graph
    norms = [node for node in graph.nodes if is_batch_norm(graph, node)]
    found: list[Node] = []
    while True:
        reached = reached_values(subject, {node.index for node in found})
        held = {_held(node) for node in norms if _input(node) in reached}
        calls = [node for node in norms if _held(node) in held]
        if len(calls) == len(found):
            return found
        found = calls


def _held(node: Node) -> int:
    ref = node.args["running_mean"]
    assert isinstance(ref, Ref), "is_batch_norm was asked"
    return ref.value


def _input(node: Node) -> int:
    ref = node.args["input"]
    assert isinstance(ref, Ref), "a batch norm reads a tensor"
    return ref.value


def _layer(subject: Subject, node: Node) -> str:
    return subject.groups.graph.names[node.args["running_mean"].value][0].rpartition(".")[0]


def _values(pair: Pair, node: Node) -> Tensor:
    """What goes into the layer: [channels, values], in float64."""
    values = pair.cut[_input(node)].movedim(1, 0).flatten(1).double()
    if not bool(values.isfinite().all()):
        name = pair.cut.tape.graph.names[node.args["running_mean"].value][0].rpartition(".")[0]
        raise CaptureError(
            f"what goes into {name} is not finite on batch {pair.number} of the data",
            [str(node)],
            "leave out what is not finite in the data, or find the layer that overflows",
        )
    return values


def _write(subject: Subject, named: dict[str, Tensor], node: Node, found: _Statistics) -> None:
    if found.count < 2:
        return
    names = subject.groups.graph.names
    mean, variance = (named[names[node.args[arg].value][0]] for arg in ("running_mean", "running_var"))
    mean.copy_(found.mean)
    variance.copy_(found.squares / (found.count - 1))


def _told(subject: Subject, node: Node, found: _Statistics) -> Recovery:
    layer = _layer(subject, node)
    if found.count < 2:
        return Recovery("batch-norm", layer, "left alone", "one value in each channel has no variance")
    told = f"mean and variance of {found.count:,} values in each channel"
    return Recovery("batch-norm", layer, "approximate", told)
