"""Refit: each layer that lost inputs learns to make do with those that are left.

For every linear layer and convolution whose input lost positions, in depth order: with x its patches in the
cut model as it is by then (the layers before are refitted already), and y the dense layer's output at the
kept positions, find

    min over W, c of  sum |W x + c - y|^2  +  ridge * sum over the inputs i of  S_i |W_i - W0_i|^2

where W0 is the weight after the cut, S_i the variance of an input (a quiet one counts more: `gram`) and c
goes into the bias or the running mean of the batch norm behind. Only sums over the rows (x, y) are held, in
float64. So no labels, no gradients and no training: each layer is a small system of equations.

Where the output is added to something that also changed (the shortcut of a residual block), the target is
what the sum was: y is the dense sum minus the cut model's shortcut, carried back through the batch norm and
the scales in between.

Bounds. Patches are taken in pieces of 64 MiB. A layer sees at most 4 rows for each of its unknowns per
output, and at least 8,192; if there are more, as many are drawn from every batch with a fixed seed. Where
there are fewer rows than inputs, and no more numbers in them than the widest layer has sums, the rows are
held (`held_rows`). Otherwise a layer that reads more than 8,192 numbers for one output is refitted in blocks
of input channels, one after the other, each to what is missing by then. One that would need more than 16
blocks is left alone. What flows between two layers is bounded by `memory_bytes`.

References:
    He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, sections 3.1
    (least squares on sampled patches) and 3.3 (residual branches). https://arxiv.org/abs/1707.06168
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.capture.replay import Replay, Tape
from secateur.coupling.layers import LayerCall, layer_of
from secateur.coupling.patches import Patches, weight_change
from secateur.errors import CaptureError
from secateur.recovery.gram import Change, Gram, choose_ridge
from secateur.recovery.held_rows import HeldRows
from secateur.recovery.layers import (
    Readers,
    constant_place,
    has_lost,
    is_complex,
    tensors_of,
    unknown_layers,
)
from secateur.recovery.lockstep import Pair, start
from secateur.recovery.step import Recovery, Subject, step
from secateur.recovery.target import LayerTarget

_ROWS_PER_UNKNOWN = 4
_FEWEST_ROWS = 8_192
_WIDEST = 8_192
_MOST_BLOCKS = 16
Sums: TypeAlias = Gram | HeldRows
_FOLDS = 4
"""One row in so many chooses the ridge."""
_PIECE = 2**23
"""Numbers of patches that are held at once: 64 MiB in float64."""


@step("refit", needs_data=True)
@torch.no_grad()
def refit(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Refit every layer whose input lost positions.

    Args:
        subject: The cut model and where it comes from.

    Returns:
        A new model, and for each layer how far its output was and is from the target.

    Raises:
        CaptureError: A layer reads or should put out NaN or infinity.
    """
    cut = copy_module(subject.cut)
    unknown = [Recovery("refit", name, "left alone", why) for name, why in unknown_layers(subject)]
    return cut, LayerRefit(subject, cut).run(unknown=unknown)


@dataclass
class _Done:
    """What became of a layer.

    Attributes:
        layer: Its name.
        unknowns: Numbers that one output is computed from.
        place: What took the constant; empty if nothing did.
        before: Squares that were missing, over all rows.
        after: Squares that are.
        size: Squares of the target around its mean.
        seen: Rows that were used.
        there: Rows that there are.
        ridge: The largest ridge of its blocks.
    """

    layer: str
    unknowns: int
    place: str
    before: float = 0.0
    after: float = 0.0
    size: float = 0.0
    seen: int = 0
    there: int = 0
    ridge: float = 0.0

    def note(self, rows: "_Rows", both: Sums, change: Change) -> None:
        """Take down one solution, before it is written; a shared layer's rows are those of all calls."""
        if rows.block == 0:
            # Of a shared layer the sums hold what the calls before still miss: that is `after`.
            self.before += both.missing - self.after
            self.size += rows.size
            self.there += rows.there
            self.seen = both.rows
        self.after = float(both.left_by(change).sum())
        self.ridge = max(self.ridge, change.ridge)

    def told(self) -> Recovery:
        """The record of it."""
        drawn = f" drawn from {self.there:,}" if self.seen < self.there else ""
        on = f"on {self.seen:,} position{'s' if self.seen > 1 else ''}{drawn}"
        before, after = ((missing / (self.size or inf)) ** 0.5 for missing in (self.before, self.after))
        parts = [
            f"error of its output {100 * before:.3g} % -> {100 * after:.3g} % {on}"
            if self.size
            else f"its output does not vary {on}",
            "no change of the weight helps on other samples"
            if self.ridge == inf
            else f"ridge {self.ridge:g}",
        ]
        if self.seen < self.unknowns:
            parts.append(f"fewer positions than its {self.unknowns:,} inputs: pass more data")
        if not self.place:
            parts.append("no bias and no batch norm takes a constant")
        is_exact = bool(self.size) and after < 1e-6
        return Recovery("refit", self.layer, "exact" if is_exact else "approximate", ", ".join(parts))


class LayerRefit:
    """Refits layers of a cut model in place, in depth order.

    Args:
        subject: The cut model and where it comes from.
        cut: The copy of the cut model that is changed.
    """

    def __init__(self, subject: Subject, cut: nn.Module) -> None:
        self.subject = subject
        self.cut = cut
        self.graph = subject.groups.graph
        self.readers = Readers(self.graph)
        self.named = tensors_of(cut)
        found = (layer_of(self.graph, node) for node in self.graph.nodes)
        self.layers = [layer for layer in found if layer is not None]
        self.sums: dict[int, tuple[Sums, Sums]] = {}
        self.done: dict[int, _Done] = {}

    def run(
        self,
        replay: Callable[[Tape, nn.Module, Any], Replay] = Replay,
        unknown: Sequence[Recovery] = (),
    ) -> list[Recovery]:
        """Refit all layers that read less than they did.

        Args:
            replay: How the cut model is run.
            unknown: What is to be told of what is no layer.

        Returns:
            What was done to each.
        """
        layers = [layer for layer in self.layers if self.reads_less(layer)]
        notes = [
            Recovery("refit", layer.name, "left alone", reason)
            for layer in layers
            if (reason := self.obstacle(layer))
        ]
        notes += unknown
        layers = [layer for layer in layers if not self.obstacle(layer)]
        if not layers:
            return notes
        stops = [layer.node.index for layer in layers]
        lockstep = start(self.subject, self.cut, stops, with_dense=True, replay=replay)
        if lockstep.note:
            notes.append(Recovery("refit", "data", "limit", lockstep.note))
        for layer in layers:
            for pair in lockstep.pairs:
                assert pair.dense is not None, "asked for above"
                pair.cut.advance(layer.node.index)
                pair.dense.advance(layer.node.index + 1)
            self.refit(layer, lockstep.pairs)
        return [*notes, *(done.told() for done in self.done.values())]

    def reads_less(self, layer: LayerCall) -> bool:
        """Whether what a layer reads is less than it was, so that it is refitted."""
        return has_lost(self.subject, layer)

    @cached_property
    def calls(self) -> Mapping[int, list[LayerCall]]:
        """The calls of each weight."""
        calls: dict[int, list[LayerCall]] = {}
        for layer in self.layers:
            calls.setdefault(layer.weight, []).append(layer)
        return calls

    def weight_of(self, layer: LayerCall) -> Tensor:
        """The weight of a layer of the cut model."""
        return self.named[self.graph.names[layer.weight][0]]

    def obstacle(self, layer: LayerCall) -> str:
        """Why a layer cannot be refitted; empty if it can."""
        if not layer.is_held:
            return "its weight is computed"
        if is_complex(self.graph, layer):
            return "its numbers are complex"
        calls = self.calls[layer.weight]
        own = {node.index for call in calls for node in (call.node, *call.turned)}
        held = [layer.weight, *(value for call in calls for node in call.turned for value in node.makes)]
        others = [node for value in held for node in self.graph.readers[value] if node.index not in own]
        if others:
            return f"its weight is also used by {others[0]}"
        if any(not self.reads_less(call) for call in calls):
            return "it is also called on an input that lost nothing"
        blocks = self._blocks(layer)
        if blocks > _MOST_BLOCKS:
            return f"{self._features(layer):,} inputs for one output, at most {_MOST_BLOCKS * _WIDEST:,}"
        if blocks > 1 and len(calls) > 1:
            return f"it is called twice and has {self._features(layer):,} inputs, at most {_WIDEST:,} then"
        return ""

    def _features(self, layer: LayerCall) -> int:
        """Numbers that one output of the cut layer is computed from."""
        shape = self.weight_of(layer).shape
        if layer.spatial == 0:
            return int(shape[0] if layer.inputs_first else shape[1])
        channels = shape[1]
        if layer.is_transposed:
            outputs = self.subject.groups.findings.dims[layer.output][layer.channels_at]
            groups = self.subject.kept.count(outputs) // shape[1]
            channels = shape[0] // groups
        return int(channels) * prod(shape[2:])

    def _blocks(self, layer: LayerCall) -> int:
        return -(-self._features(layer) // _WIDEST)

    def refit(self, layer: LayerCall, pairs: tuple[Pair, ...]) -> None:
        """Refit one layer at which all batches stand."""
        target = LayerTarget(self.subject, self.readers, layer)
        place = constant_place(self.readers, self.cut, self.calls[layer.weight])
        done = self.done.get(layer.weight)
        if done is None:
            done = self.done[layer.weight] = _Done(
                layer.name, self._features(layer), "" if place is None else place[2]
            )
        is_shared = len(self.calls[layer.weight]) > 1
        rows = _Rows(layer, target, pairs, self._most_rows(layer))
        blocks = 1 if rows.are_held else self._blocks(layer)
        for number in range(blocks):
            rows.begin_block(number, blocks)
            fit, test = rows.gather(self.sums.get(layer.weight))
            ridge = choose_ridge(fit, test, has_constant=place is not None)
            both = fit.join(test)
            change = both.nothing() if ridge is None else both.solve(ridge, has_constant=place is not None)
            done.note(rows, both, change)
            rows.write(self.weight_of(layer), change, place)
            if is_shared:
                fit.apply(change)
                test.apply(change)
                self.sums[layer.weight] = fit, test

    def _most_rows(self, layer: LayerCall) -> int:
        return max(_ROWS_PER_UNKNOWN * self._features(layer), _FEWEST_ROWS)


class _Rows:
    """The rows of a layer, over all batches.

    Args:
        layer: The layer.
        target: What it should put out.
        pairs: The batches, which stand at the layer.
        most: How many rows may be used.

    Attributes:
        size: Squares of the targets around their mean, over the rows that were used.
        there: Rows that there are.
        are_held: They are fewer than the inputs, and take no more than the sums of the widest layer.
        block: Which block of the input channels is refitted: channels from `begin` to before `end`.
    """

    def __init__(self, layer: LayerCall, target: LayerTarget, pairs: tuple[Pair, ...], most: int) -> None:
        self.layer, self.target, self.pairs = layer, target, pairs
        patches = [self._patches(pair) for pair in pairs]
        self.groups, self.kernel, self.channels = patches[0].groups, patches[0].kernel, patches[0].channels
        self.there = sum(one.rows for one in patches)
        self._drawn = [
            self._draw(pair.number, one.rows, most) for pair, one in zip(pairs, patches, strict=True)
        ]
        count, features = sum(map(len, self._drawn)), self.channels * prod(self.kernel)
        self.are_held = count <= features and count * features <= _WIDEST**2
        self.size = 0.0
        self.begin_block(0, 1)

    def begin_block(self, number: int, blocks: int) -> None:
        """Go on with one of several blocks of input channels."""
        step = -(-self.channels // blocks)
        self.block, self.begin = number, number * step
        self.end = min(self.begin + step, self.channels)
        self.features = (self.end - self.begin) * prod(self.kernel)

    def _patches(self, pair: Pair) -> Patches:
        return Patches(pair.cut.named(self.layer.node.index), pair.cut[self.layer.input])

    def _draw(self, number: int, count: int, most: int) -> Tensor:
        if most >= self.there:
            return torch.arange(count, device="cpu")
        generator = torch.Generator().manual_seed(1_000_003 * self.layer.node.index + number)
        order = torch.randperm(count, generator=generator, device="cpu")
        return order[: max(1, round(most / self.there * count))].sort().values

    def gather(self, known: tuple[Sums, Sums] | None) -> tuple[Sums, Sums]:
        """Sum over the rows of all batches.

        Args:
            known: The sums of calls before, to go on with.

        Returns:
            The sums of the rows to learn from, and of those to choose the ridge by.
        """
        sums = known
        total, squares, count = torch.zeros((), device="cpu"), torch.zeros((), device="cpu"), 0
        for pair, rows in zip(self.pairs, self._drawn, strict=True):
            wanted, missing = self.target.of(pair, rows if len(rows) < self._patches(pair).rows else None)
            self._require_finite(pair, wanted)
            total, squares = wanted.sum(0) + total.to(wanted), wanted.square().sum(0) + squares.to(wanted)
            count += len(wanted)
            missing = missing.unflatten(1, (self.groups, -1)).transpose(0, 1)
            sums = sums or (self._empty(missing), self._empty(missing))
            self._add(pair, missing, rows, sums)
        assert sums is not None, "there is at least one batch"
        self.size = float((squares - total**2 / count).clamp(min=0).sum())
        return sums

    def _empty(self, missing: Tensor) -> Sums:
        groups, _, outputs = missing.shape
        if self.are_held:
            return HeldRows(
                missing.new_empty(groups, 0, self.features), missing.new_empty(groups, 0, outputs)
            )
        return Gram(groups, self.features, outputs, missing.device)

    def _add(self, pair: Pair, missing: Tensor, rows: Tensor, sums: tuple[Sums, Sums]) -> None:
        patches = self._patches(pair)
        piece = max(1, _PIECE // max(1, self.groups * self.features))
        for one, (begin, end) in zip(sums, self._parts(pair, len(rows)), strict=True):
            for at in range(begin, end, piece):
                to = min(at + piece, end)
                x = patches.take(rows[at:to], self.begin, self.end).to(missing.device)
                one.add(x, missing[:, at:to])

    def _parts(self, pair: Pair, count: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The rows to learn from and those to choose by: other batches, or the last samples of each."""
        if len(self.pairs) >= _FOLDS:
            is_test = pair.number % _FOLDS == _FOLDS - 1
            return ((0, 0), (0, count)) if is_test else ((0, count), (0, 0))
        at = count - count // _FOLDS
        return (0, at), (at, count)

    def _require_finite(self, pair: Pair, wanted: Tensor) -> None:
        for what, tensor in (("reads", pair.cut[self.layer.input]), ("should put out", wanted)):
            if not all(bool(torch.isfinite(end)) for end in tensor.aminmax()):
                raise CaptureError(
                    f"layer {self.layer.name} {what} NaN or infinity on batch {pair.number} of the data",
                    [str(self.layer.node)],
                    "leave out what is not finite in the data, or find the layer that overflows",
                )

    def write(self, weight: Tensor, change: Change, place: tuple[Tensor, int, str] | None) -> None:
        """Change the layer."""
        layer = self.layer
        found = weight_change(layer, change.weight, self.end - self.begin, self.kernel)
        part = self._part(weight)
        _add(part, found.reshape(part.shape))
        if place is not None:
            tensor, sign, _ = place
            _add(tensor, sign * change.constant.flatten())

    def _part(self, weight: Tensor) -> Tensor:
        """A view of the weight of the block's channels."""
        width = self.end - self.begin
        if self.layer.spatial == 0:
            return weight.narrow(0 if self.layer.inputs_first else 1, self.begin, width)
        if self.layer.is_transposed:
            return weight.unflatten(0, (self.groups, -1)).narrow(1, self.begin, width)
        return weight.narrow(1, self.begin, width)


def _add(tensor: Tensor, change: Tensor) -> None:
    """Add in float64, on the CPU where the device has no float64."""
    if tensor.device == change.device:
        tensor.add_(change)  # without a copy of the tensor in the finer type
    else:
        tensor.copy_(tensor.to(change) + change)
