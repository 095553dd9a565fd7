r"""Absorb: what removed channels always contributed goes into the next layer's bias.

A channel whose batch-norm scale is zero is a constant: its shift beta, seen through the activation, c =
act(beta). The next layer L is linear, so cutting the channel takes away

    lost = L(x at the removed positions, zero elsewhere), without bias

and its mean over batch and space is added to that layer's bias, or subtracted from the running mean of the
batch norm behind it. Exact where `lost` is the same everywhere and for every input: constant channels and no
padding, or maps of one pixel. With padding the border pixels saw fewer of the constants, so there the mean is
the best constant. Whether it is exact is found out with random inputs, which the mean ignores.
With data, x are real inputs instead (Li et al.'s bias compensation).

The upstream scripts of network slimming throw beta away; this keeps it (Ye et al., "Rethinking the
Smaller-Norm-Less-Informative Assumption in Channel Pruning", ICLR 2018, section 4, arXiv 1802.00124).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import Step as Call
from secateur.capture import follow
from secateur.capture.batches import naming_batch
from secateur.capture.copies import copy_module
from secateur.capture.inputs import map_inputs
from secateur.capture.record import shadow
from secateur.errors import CaptureError
from secateur.graph.axes import leaves
from secateur.graph.keep import keep_mask, positions
from secateur.graph.node import Node, Ref
from secateur.recover.layers import Readers, constant_place, layer_of
from secateur.recover.step import Recovery, Subject, step

_CHANNELS_AT = {
    "aten.linear": -1,
    "aten.conv1d": -2,
    "aten.conv2d": -3,
    "aten.conv3d": -4,
    "aten.conv_transpose1d": -2,
    "aten.conv_transpose2d": -3,
    "aten.conv_transpose3d": -4,
}
"""Where the channels of input and output lie, for each operator that is linear in its input."""

_PROBES = 2
"""Random inputs on which a response must stay the same to be called constant."""

_UNIFORM = 1e-5
"""Relative spread below which a response counts as the same everywhere in float32."""


@dataclass
class _Lost:
    """What one layer loses: running sums over everything but the channels."""

    total: Tensor
    count: int
    low: Tensor
    high: Tensor
    inputs: int

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)

    @property
    def is_uniform(self) -> bool:
        spread = float((self.high - self.low).max())
        return spread <= _UNIFORM * max(float(self.high.abs().max()), float(self.low.abs().max()), 1e-12)

    def with_call(self, other: "_Lost") -> "_Lost":
        """What a layer loses that is called twice: its one bias takes the mean over both calls."""
        return _Lost(
            self.total + other.total,
            self.count + other.count,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            self.inputs,
        )


@step("absorb")
def absorb(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Move the constant response of removed channels into the next layer.

    Args:
        subject: The cut model and where it comes from; without data the constants come from batch norm.

    Returns:
        A new model, and for each layer that lost inputs what was done.
    """
    watcher = _Watcher(subject)
    original = shadow(subject.original).eval()
    if subject.data is None:
        follow(_silence(subject), subject.example_inputs, subject.groups.graph, watcher)
        _probe(original, subject, watcher)
    else:
        for number, batch in enumerate(subject.data):
            with naming_batch(number):
                follow(original, batch, subject.groups.graph, watcher)
    cut = copy_module(subject.cut)
    return cut, [_move(subject, cut, node, lost) for node, lost in _by_place(subject, cut, watcher.lost)]


def _by_place(subject: Subject, cut: nn.Module, lost: dict[int, _Lost]) -> list[tuple[Node, _Lost]]:
    """What is lost for each tensor that can hold it; the calls of a shared layer are joined."""
    joined: dict[int, tuple[Node, _Lost]] = {}
    for index, one in lost.items():
        node = subject.groups.graph.nodes[index]
        place = _place(subject, cut, node)
        key = -1 - index if place is None else id(place[0])
        known = joined.get(key)
        joined[key] = (node, one) if known is None else (known[0], known[1].with_call(one))
    return list(joined.values())


def _silence(subject: Subject) -> nn.Module:
    """Copy the original with the batch-norm scale of every removed channel at zero."""
    model = copy_module(subject.original).eval()
    named = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for group in subject.groups:
            mask = subject.keep.get(group.axis)
            if mask is None:
                continue
            for member in group.members:
                if member.op == "aten.batch_norm" and member.arg == "weight":
                    rows = positions(member.expr, group.axis)[~mask].reshape(-1)
                    named[member.tensor][torch.from_numpy(rows)] = 0
    return model


def _probe(original: nn.Module, subject: Subject, watcher: "_Watcher") -> None:
    """Show the watcher random inputs: one example, of zeros perhaps, makes anything look constant.

    With the scales as they are: a channel whose scale is small, but not zero, is no constant.
    """
    watcher.counts = False
    generator = torch.Generator().manual_seed(0)

    def draw(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator, device="cpu").to(leaf)

    try:
        for _ in range(_PROBES):
            follow(original, map_inputs(subject.example_inputs, draw), subject.groups.graph, watcher)
    except CaptureError:  # its path depends on numbers, so nothing is known to be constant
        for lost in watcher.lost.values():
            lost.high = torch.full_like(lost.high, torch.nan)


class _Watcher:
    """Computes at every linear layer and convolution what its removed inputs contribute.

    Attributes:
        counts: Whether what is seen goes into the mean, or only into the spread.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.counts = True
        self.changed = {held for held, mask in subject.keep.items() if not mask.all()}
        self.lost: dict[int, _Lost] = {}

    def __call__(self, call: Call) -> Any:
        node = call.node
        ref = node.args.get("input")
        if node.op in _CHANNELS_AT and isinstance(ref, Ref) and self._has_weight(node):
            channels = self.subject.groups.findings.dims[ref.value][_CHANNELS_AT[node.op]]
            if any(leaf in self.changed for leaf in leaves(channels)):
                self._watch(call, torch.from_numpy(keep_mask(channels, self.subject.keep)))
        return call.run()

    def _has_weight(self, node: Node) -> bool:
        weight = node.args["weight"]
        return isinstance(weight, Ref) and weight.value in self.subject.groups.graph.names

    def _watch(self, call: Call, kept: Tensor) -> None:
        at = _CHANNELS_AT[call.node.op]
        named = call.named()
        inputs = named["input"].double()
        inputs = inputs.index_fill(inputs.dim() + at, kept.nonzero()[:, 0].to(inputs.device), 0)
        weight = named["weight"].double()
        output = call.func(**{**named, "input": inputs, "weight": weight, "bias": None})
        rows = output.movedim(at, 0).reshape(output.shape[at], -1).cpu()
        low, high = rows.amin(1), rows.amax(1)
        total, count = (rows.sum(1), rows.shape[1]) if self.counts else (torch.zeros_like(low), 0)
        known = self.lost.get(call.node.index)
        if known is not None:
            low, high = torch.minimum(low, known.low), torch.maximum(high, known.high)
            total, count = total + known.total, count + known.count
        self.lost[call.node.index] = _Lost(total, count, low, high, int((~kept).sum()))


def _move(subject: Subject, cut: nn.Module, node: Node, lost: _Lost) -> Recovery:
    """Add the lost constant of one layer to its bias, or to the batch norm behind it."""
    graph, findings = subject.groups.graph, subject.groups.findings
    name = graph.names[node.args["weight"].value][0]
    layer = name.rpartition(".")[0] or name
    place = _place(subject, cut, node)
    if place is None:
        return Recovery("absorb", layer, False, "left alone: no bias and no batch norm takes the constant")
    target, sign, described = place
    output = node.outputs[0]
    assert output is not None, "a layer returns a tensor"
    kept = torch.from_numpy(keep_mask(findings.dims[output.value][_CHANNELS_AT[node.op]], subject.keep))
    with torch.no_grad():
        target += sign * lost.mean[kept].to(target)
    why = "" if lost.is_uniform else ", the mean of a varying response"
    return Recovery("absorb", layer, lost.is_uniform, f"{lost.inputs} inputs went into {described}{why}")


def _place(subject: Subject, cut: nn.Module, node: Node) -> tuple[Tensor, int, str] | None:
    """The tensor of the cut model that can hold a layer's constant, and the sign it takes it with."""
    layer = layer_of(subject.groups.graph, node)
    return None if layer is None else constant_place(Readers(subject.groups.graph), cut, layer)
