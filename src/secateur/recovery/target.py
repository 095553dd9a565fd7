"""The target of a layer: what it must put out so that what comes behind it is as in the dense model.

Without a batch norm and without an addition it is the dense layer's output at the kept positions. A batch
norm of the cut model that no longer holds the dense statistics (an earlier step changed them) scales and
shifts the target. Behind an addition y + s the target takes on what s has lost: dense s - cut s, carried
back to where the layer puts y out.
"""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from secateur.capture.replay import Replay
from secateur.coupling.layers import LayerCall
from secateur.coupling.rule import traits_of
from secateur.graph.node import Node, Ref, first_operand
from secateur.graph.trait import Trait
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

    def of(self, pair: Pair, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The target, and what is missing to it.

        Args:
            pair: Both models, the dense one just behind the layer and the cut one just before it.
            rows: Indices of the positions that are asked for; None for all.

        Returns:
            Both [positions, outputs] in float64, on the CPU where the device has no float64.
        """
        assert pair.dense is not None, "a target needs the dense model"
        output = pair.cut.call(self.layer.node.index)
        at = _Rows(output.shape, self.layer.channels_at, rows)
        now = at.of(output)
        wanted = self._kept_rows(pair.dense.results[0], self.layer.output, at)
        if self.norm is not None:
            wanted = self._through_norm(pair, wanted)
        is_moved = any(not self._stays(node) for node in self.path)
        lost = self._lost_when_moved(pair, _double(output), at) if is_moved else self._lost_in_sums(pair, at)
        if lost is not None:
            wanted = wanted + lost
        return wanted, wanted - now

    def _stays(self, node: Node) -> bool:
        """Whether a call of the path leaves each number where it is."""
        graph = self.subject.groups.graph
        if is_batch_norm(graph, node):
            return self.layer.channels_at % len(graph.values[self.layer.output].shape) == 1
        return is_sum(node) or is_scale(node) or _is_copy(node)

    def _kept_rows(self, tensor: Tensor, value: int, at: "_Rows") -> Tensor:
        """The kept positions of a tensor of the dense model, in rows."""
        dims = self.subject.groups.findings.dims[value]
        channels = dims[at.channels_at]
        others = [dim for dim in dims if dim is not channels and self.subject.kept.cuts(dim)]
        if others or tensor.dim() != len(at.shape):
            return at.of(kept(tensor, value, self.subject))
        found = at.of(tensor)
        if not self.subject.kept.cuts(channels):
            return found
        mask = torch.from_numpy(self.subject.kept.mask(channels)).to(found.device)
        return found[:, mask.repeat(found.shape[1] // len(mask))]

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
        return (wanted - mean) * ((variance_cut + eps) / (variance + eps)).sqrt() + mean_cut

    def _lost_in_sums(self, pair: Pair, at: "_Rows") -> Tensor | None:
        """What the other operands of the sums behind have lost, in rows; the output is not moved there."""
        scale: Tensor | None = None
        lost: Tensor | None = None
        for node, _, other in self._calls():
            if is_sum(node):
                assert other is not None, "the path was chosen so"
                gap = self._gap(pair, other, at)
                if gap is not None:
                    gap = gap if scale is None else _undone(gap, scale)
                    lost = gap if lost is None else lost + gap
            elif not _is_copy(node):
                factor = self._factor(pair, node, other, at)
                if factor is None:
                    return None
                scale = factor if scale is None else scale * factor
        return lost

    def _calls(self) -> Iterator[tuple[Node, int, int | None]]:
        """The calls behind the layer, with the value that they take from it and their other operand."""
        value = self.layer.output
        for node in self.path:
            yield node, value, other_operand(node, value)
            made = node.outputs[0]
            assert made is not None, "the path was chosen so"
            value = made.value

    def _factor(self, pair: Pair, node: Node, other: int | None, at: "_Rows") -> Tensor | None:
        """What a scale or a batch norm multiplies with; None where that has another shape than the output."""
        if is_batch_norm(self.subject.groups.graph, node):
            return _norm_scale(pair, node)
        assert other is not None, "the path was chosen so"
        factor = pair.cut[other]
        return at.of(factor) if _fits(factor, at.shape) else None

    def _lost_when_moved(self, pair: Pair, output: Tensor, at: "_Rows") -> Tensor | None:
        """The same where the output is moved about on the way: followed number by number."""
        index = torch.arange(output.numel(), device=output.device).view(output.shape)
        scale = torch.ones_like(output)
        lost = torch.zeros(output.numel(), dtype=output.dtype, device=output.device)
        for node, value, other in self._calls():
            if is_sum(node):
                assert other is not None, "the path was chosen so"
                if self._spreads(node, value):
                    break  # as a table of positions over all windows: each number is in many sums
                gap = self._gap(pair, other, None)
                if gap is not None and _fits(gap, index.shape):
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
        return at.of(lost.view(output.shape))

    def _spreads(self, node: Node, value: int) -> bool:
        """Whether a sum has more numbers than what it takes from the path."""
        values = self.subject.groups.graph.values
        return any(prod(values[made].shape) > prod(values[value].shape) for made in node.makes)

    def _gap(self, pair: Pair, value: int, at: "_Rows | None") -> Tensor | None:
        """What a value of the cut model lacks, in rows or as it is.

        Returns:
            None if it is not computed yet, or cannot be compared.
        """
        assert pair.dense is not None, "a target needs the dense model"
        whole, cut = self._seen(pair.dense, value), self._seen(pair.cut, value)
        if whole is None or cut is None:
            return None
        if at is None:
            dense = kept(whole, value, self.subject)
            return _double(dense) - _double(cut) if dense.shape == cut.shape else None
        if not _fits(cut, at.shape):
            return None
        if cut.shape == at.shape and whole.dim() == cut.dim():
            dense = self._kept_rows(whole, value, at)
            return dense - at.of(cut)
        dense = kept(whole, value, self.subject)
        return at.of(dense) - at.of(cut) if dense.shape == cut.shape else None

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


class _Rows:
    """Some positions of a layer's output, channels last.

    Args:
        shape: Of the output of the cut layer.
        channels_at: Which of its dims holds the channels.
        rows: Indices of positions; None for all.
    """

    def __init__(self, shape: torch.Size, channels_at: int, rows: Tensor | None) -> None:
        self.shape = shape
        self.channels_at = channels_at
        self._index: tuple[Tensor, ...] | None = None
        if rows is not None:
            positions = [size for at, size in enumerate(shape) if at != channels_at % len(shape)]
            self._index = torch.unravel_index(rows, positions)

    def of(self, tensor: Tensor) -> Tensor:
        """Of a tensor that has, or is broadcast to, this shape but for its channels.

        Returns:
            [positions, channels] in float64.
        """
        sizes = list(self.shape)
        if tensor.dim() == len(sizes):
            sizes[self.channels_at] = max(tensor.shape[self.channels_at], 1)
        if tensor.shape != tuple(sizes):
            tensor = tensor.expand(self.shape)
        moved = tensor.movedim(self.channels_at, -1)
        if self._index is None:
            return _double(moved).reshape(-1, moved.shape[-1])
        return _double(moved[tuple(at.to(tensor.device) for at in self._index)])


def _is_copy(node: Node) -> bool:
    """Whether a call only copies, as a dropout in eval mode does."""
    return is_move(node) and Trait.POINTWISE in traits_of(node)


def _undone(gap: Tensor, scale: Tensor) -> Tensor:
    """What a layer must put out more for a gap behind its scales; nothing where these are faint."""
    scale = scale.expand_as(gap)
    clear = scale.abs() > _FAINTEST * scale.abs().mean()
    return torch.where(clear, gap / scale, torch.zeros_like(gap))


def _fits(smaller: Tensor, larger: torch.Size) -> bool:
    """Whether a tensor is broadcast to a shape, as a bias is."""
    sizes = zip(reversed(smaller.shape), reversed(larger), strict=False)
    return smaller.dim() <= len(larger) and all(one in (1, two) for one, two in sizes)


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
