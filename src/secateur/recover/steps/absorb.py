r"""Absorb: what removed channels always contributed goes into the next layer's bias.

A channel whose batch-norm scale is zero is a constant: its shift beta, seen through the activation. Cutting
it takes W[:, removed] c away from the next layer, with c = act(beta), so that amount is added to that layer's
bias, or subtracted from the running mean of the batch norm behind it:

    b' = b + sum over removed i, kernel p of  W[o, i, p] c_i        mean' = mean - the same sum

Exact where c is constant and nothing is padded; with padding the border pixels saw fewer of the constants.
With data, c is the mean response of each removed channel instead (Li et al.'s bias compensation).

The upstream scripts of network slimming throw beta away; this keeps it (Ye et al., "Rethinking the
Smaller-Norm-Less-Informative Assumption in Channel Pruning", ICLR 2018, section 4, arXiv 1802.00124).
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import Step as Call
from secateur.capture import follow
from secateur.capture.record import shadow
from secateur.graph.axes import Mask, keep_mask, leaves, positions
from secateur.graph.node import Node, Ref, refs_in
from secateur.recover.step import Recovery, Subject, steps

_RANKS = {"aten.linear": 0, "aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}
_CONSTANT = 1e-5
"""Relative spread below which a response counts as constant in float32."""


@steps("absorb")
def absorb(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Move the constant response of removed channels into the next layer.

    Args:
        subject: The cut model and where it comes from; without data the constants come from batch norm.

    Returns:
        A new model, and for each layer that lost inputs what was done.
    """
    batches = list(subject.data) if subject.data is not None else [subject.example_inputs]
    original = shadow(subject.original, with_buffers=True).eval()
    if subject.data is None:
        original = _silence(subject)
    responses = _Responses(subject)
    for batch in batches:
        follow(original, batch, subject.groups.graph, responses)
    cut = copy.deepcopy(subject.cut)
    notes = [
        _move(subject, cut, node, *responses.summary(node.index), len(batches) > 0 and subject.data is None)
        for node in subject.groups.graph.nodes
        if node.index in responses.sums
    ]
    return cut, notes


def _silence(subject: Subject) -> nn.Module:
    """Copy the original with the batch-norm scale of every removed channel at zero."""
    model = copy.deepcopy(subject.original).eval()
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


class _Responses:
    """Watches the inputs of linear layers and convolutions that lose input channels."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.changed = {held for held, mask in subject.keep.items() if not mask.all()}
        self.sums: dict[int, tuple[Tensor, int]] = {}
        self.spread: dict[int, float] = {}

    def __call__(self, call: Call) -> Any:
        node = call.node
        if node.op in _RANKS and self._loses_inputs(node):
            self._watch(node, call.named()["input"])
        return call.run()

    def _loses_inputs(self, node: Node) -> bool:
        weight = node.args["weight"]
        if not isinstance(weight, Ref):
            return False
        dims = self.subject.groups.findings.dims[weight.value]
        return any(leaf in self.changed for leaf in leaves(dims[1])) and weight.value in (
            self.subject.groups.graph.names
        )

    def _watch(self, node: Node, inputs: Tensor) -> None:
        at = inputs.dim() - 1 - _RANKS[node.op]
        rows = inputs.movedim(at, 0).reshape(inputs.shape[at], -1).double()
        total, count = self.sums.get(node.index, (torch.zeros(len(rows), dtype=torch.float64), 0))
        self.sums[node.index] = (total + rows.sum(1).cpu(), count + rows.shape[1])
        gone = torch.from_numpy(~_input_mask(self.subject, node))
        lost = rows[gone.to(rows.device)]
        width = float((lost.amax(1) - lost.amin(1)).max()) if lost.numel() else 0.0
        scale = max(float(lost.abs().max()) if lost.numel() else 0.0, 1e-12)
        self.spread[node.index] = max(self.spread.get(node.index, 0.0), width / scale)

    def summary(self, index: int) -> tuple[Tensor, bool]:
        """Mean response of each input channel, and whether the removed ones are constant."""
        total, count = self.sums[index]
        return total / max(count, 1), self.spread[index] < _CONSTANT


def _input_mask(subject: Subject, node: Node) -> Mask:
    """Which input channels of a layer stay."""
    ref = node.args["input"]
    assert isinstance(ref, Ref), "the input of a layer is a tensor"
    dims = subject.groups.findings.dims[ref.value]
    return keep_mask(dims[len(dims) - 1 - _RANKS[node.op]], subject.keep)


def _move(
    subject: Subject, cut: nn.Module, node: Node, means: Tensor, is_constant: bool, analytic: bool
) -> Recovery:
    """Add the lost constant of one layer to its bias, or to the batch norm behind it."""
    graph, findings = subject.groups.graph, subject.groups.findings
    ref = node.args["weight"]
    assert isinstance(ref, Ref), "only layers with a weight are watched"
    name = graph.names[ref.value][0]
    layer = name.rpartition(".")[0] or name
    if analytic and not is_constant:
        return Recovery(
            "absorb", layer, False, "left alone: without data the removed channels are no constants"
        )
    gone = torch.from_numpy(~_input_mask(subject, node))
    weight = dict(subject.original.named_parameters(remove_duplicate=False))[name].detach().double().cpu()
    lost = _contract(weight, torch.where(gone, means, 0.0), int(node.args.get("groups", 1)))
    kept = torch.from_numpy(keep_mask(findings.dims[ref.value][0], subject.keep))
    place = _place(subject, cut, node)
    if place is None:
        return Recovery("absorb", layer, False, "left alone: no bias and no batch norm takes the constant")
    target, sign, described = place
    with torch.no_grad():
        target += sign * lost[kept].to(target)
    padded = _is_padded(node)
    exact = is_constant and not padded
    why = "" if exact else ", padded borders saw less" if is_constant else ", the mean of a varying response"
    return Recovery("absorb", layer, exact, f"{int(gone.sum())} inputs went into {described}{why}")


def _contract(weight: Tensor, means: Tensor, groups: int) -> Tensor:
    """What each output gets from the given input means, kernel summed."""
    kernel = weight.reshape(*weight.shape[:2], -1).sum(-1)
    out, width = kernel.shape
    blocks = kernel.reshape(groups, out // groups, width)
    return torch.einsum("goi,gi->go", blocks, means.reshape(groups, width)).reshape(out)


def _is_padded(node: Node) -> bool:
    padding = node.args.get("padding", 0)
    values: Iterable[Any] = padding if isinstance(padding, tuple) else (padding,)
    return node.op != "aten.linear" and any(value not in (0, "valid") for value in values)


def _place(subject: Subject, cut: nn.Module, node: Node) -> tuple[Tensor, int, str] | None:
    """The tensor of the cut model that can hold a layer's constant, and the sign it takes it with."""
    graph = subject.groups.graph
    named = dict(cut.named_parameters(remove_duplicate=False)) | dict(
        cut.named_buffers(remove_duplicate=False)
    )
    bias = node.args.get("bias")
    if isinstance(bias, Ref) and bias.value in graph.names:
        return named[graph.names[bias.value][0]], 1, "its bias"
    readers = [
        other
        for other in graph.nodes
        if any(ref in node.outputs for arg in other.args.values() for ref in refs_in(arg))
    ]
    if len(readers) == 1 and readers[0].op == "aten.batch_norm":
        mean = readers[0].args.get("running_mean")
        if isinstance(mean, Ref) and mean.value in graph.names:
            name = graph.names[mean.value][0]
            return named[name], -1, name
    return None
