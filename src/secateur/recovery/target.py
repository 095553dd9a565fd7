"""The target of a layer: what it must put out so that what comes behind it is as in the dense model.

Without a batch norm and without an addition it is the dense layer's output at the kept positions. A batch
norm of the cut model that no longer holds the dense statistics (an earlier step changed them) scales and
shifts the target. Behind an addition y + s the target takes on what s has lost: dense s - cut s, carried
back to where the layer puts y out.
"""

import torch
from torch import Tensor

from secateur.capture.replay import Replay
from secateur.coupling.layers import LayerCall
from secateur.graph.node import Node, Ref, first_operand
from secateur.recovery.layers import (
    Readers,
    is_batch_norm,
    is_move,
    is_scale,
    is_sum,
    other_operand,
)
from secateur.recovery.lockstep import Pair
from secateur.recovery.step import Subject

_FAINTEST = 1e-2
"""Scales below this share of the mean scale carry nothing back: the weights would have to be huge."""


class LayerTarget:
    """What one layer of the cut model should put out.

    Args:
        subject: The models.
        readers: Who reads what.
        layer: The layer.
    """

    def __init__(self, subject: Subject, readers: Readers, layer: LayerCall) -> None:
        self.subject = subject
        self.layer = layer
        self.readers = readers
        self.norm = readers.norm_behind(layer)
        self.path = readers.path_to_sum(layer)

    def of(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """The target, and what is missing to it.

        Args:
            pair: Both models, the dense one just behind the layer and the cut one just before it.

        Returns:
            Both [positions, outputs] in float64, on the CPU where the device has no float64.
        """
        assert pair.dense is not None, "a target needs the dense model"
        now = _double(pair.cut.call(self.layer.node.index))
        wanted = _double(kept(pair.dense.results[0], self.layer.output, self.subject))
        if self.norm is not None:
            wanted = self._through_norm(pair, wanted)
        lost = self._lost_in_sums(pair, now)
        if lost is not None:
            wanted = wanted + lost
        at = self.layer.channels_at
        rows = [tensor.movedim(at, -1).reshape(-1, now.shape[at]) for tensor in (wanted, wanted - now)]
        return rows[0], rows[1]

    def _through_norm(self, pair: Pair, wanted: Tensor) -> Tensor:
        """What the cut model's batch norm maps to what the dense one makes of the dense output."""
        assert self.norm is not None, "called with one"
        assert pair.dense is not None, "called with one"
        statistics: list[Tensor] = []
        for name in ("running_mean", "running_var"):
            value = self.norm.args[name].value
            statistics += [kept(pair.dense[value], value, self.subject), pair.cut[value]]
        mean, mean_cut, variance, variance_cut = (_double(one) for one in statistics)
        if torch.equal(mean, mean_cut) and torch.equal(variance, variance_cut):
            return wanted
        eps = self.norm.args["eps"]
        ratio = ((variance_cut + eps) / (variance + eps)).sqrt()
        shape = _along(self.layer.channels_at, wanted.dim())
        return (wanted - mean.view(shape)) * ratio.view(shape) + mean_cut.view(shape)

    def _lost_in_sums(self, pair: Pair, output: Tensor) -> Tensor | None:
        """What the other operands of the additions behind have lost, where the layer puts its output out."""
        if not self.path:
            return None
        index = torch.arange(output.numel(), device=output.device).view(output.shape)
        scale = torch.ones_like(output)
        lost = torch.zeros(output.numel(), dtype=output.dtype, device=output.device)
        value = self.layer.output
        for node in self.path:
            other = other_operand(node, value)
            if is_sum(node):
                assert other is not None, "the path was chosen so"
                gap = self._gap(pair, other)
                if gap is not None and _fits(gap, index):
                    gap = gap.expand_as(index)
                    clear = scale.abs() > _FAINTEST * scale.abs().mean()
                    lost[index[clear]] += gap[clear] / scale[clear]
            elif is_scale(node):
                assert other is not None, "the path was chosen so"
                scale = scale * _double(pair.cut[other])
                if scale.shape != index.shape:
                    return None
            elif is_batch_norm(self.subject.groups.graph, node):
                scale = scale * _norm_scale(pair, node).view(_along(1 - scale.dim(), scale.dim()))
            else:
                index, scale = (pair.cut.call(node.index, {value: held}) for held in (index, scale))
            made = node.outputs[0]
            assert made is not None, "the path was chosen so"
            value = made.value
        return lost.view(output.shape)

    def _gap(self, pair: Pair, value: int) -> Tensor | None:
        """What a value of the cut model lacks; None if it is not computed yet, or cannot be compared."""
        assert pair.dense is not None, "a target needs the dense model"
        whole, cut = self._seen(pair.dense, value), self._seen(pair.cut, value)
        if whole is None or cut is None:
            return None
        dense = kept(whole, value, self.subject)
        return _double(dense) - _double(cut) if dense.shape == cut.shape else None

    def _seen(self, replay: Replay, value: int) -> Tensor | None:
        """A value that is known already, or is only moved about later; None if it is still to be computed."""
        if value in replay:
            return replay[value]
        node = self.readers.graph.maker.get(value)
        source = None if node is None else first_operand(node)
        if node is None or source is None or not is_move(node) or len(node.outputs) != 1:
            return None
        held = self._seen(replay, source)
        return None if held is None else replay.call(node.index, {source: held})


def _fits(smaller: Tensor, larger: Tensor) -> bool:
    """Whether a tensor is broadcast to the shape of another one, as a bias is."""
    sizes = zip(reversed(smaller.shape), reversed(larger.shape), strict=False)
    return smaller.dim() <= larger.dim() and all(one in (1, two) for one, two in sizes)


def kept(tensor: Tensor, value: int, subject: Subject) -> Tensor:
    """The kept positions of a tensor of the dense model.

    Args:
        tensor: The tensor.
        value: The value that it is.
        subject: Knows the masks.

    Returns:
        The slice. A dim that holds the batch beside cut positions has another size than in the record; its
        masks are repeated.
    """
    for at, dim in enumerate(subject.groups.findings.dims[value]):
        if subject.kept.cuts(dim):
            mask = torch.from_numpy(subject.kept.mask(dim))
            if len(mask) != tensor.shape[at] and tensor.shape[at] % len(mask) == 0:
                mask = mask.repeat(tensor.shape[at] // len(mask))
            tensor = tensor.index_select(at, mask.nonzero()[:, 0].to(tensor.device))
    return tensor


def _norm_scale(pair: Pair, node: Node) -> Tensor:
    """What a batch norm multiplies each channel with."""
    weight = node.args.get("weight")
    variance = _double(pair.cut[node.args["running_var"].value])
    factor = (variance + node.args["eps"]).rsqrt()
    return factor * _double(pair.cut[weight.value]) if isinstance(weight, Ref) else factor


def _along(at: int, rank: int) -> list[int]:
    """The shape that lays a vector along one dim, counted from the right."""
    return [-1 if position == rank + at else 1 for position in range(rank)]


def _double(tensor: Tensor) -> Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
