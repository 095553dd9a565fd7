r"""Absorb: what removed channels always contributed goes into the next layer's bias.

A channel whose batch-norm scale is zero is a constant: its shift beta, seen through the activation, c =
act(beta). The next layer L is linear, so cutting the channel takes away

    lost = L(x at the removed positions, zero elsewhere), without bias

and its mean over batch and space is added to that layer's bias, or subtracted from the running mean of the
batch norm behind it. Exact where `lost` is the same everywhere and for every input: constant channels and no
padding, or maps of one pixel. With padding the border pixels saw fewer of the constants, so there the mean is
the best constant. Whether it is exact is found out with random inputs, which the mean ignores; so is whether
the mean depends on the input, and then the layer is left alone.
With data, x are real inputs instead (Li et al.'s bias compensation).

The upstream scripts of network slimming throw beta away; this keeps it (Ye et al., "Rethinking the
Smaller-Norm-Less-Informative Assumption in Channel Pruning", ICLR 2018, section 4, arXiv 1802.00124).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.capture import Step as Call
from secateur.capture import observe
from secateur.capture.batches import naming_batch
from secateur.capture.copies import copy_module
from secateur.capture.inputs import map_inputs
from secateur.capture.replay import Replay, Tapes
from secateur.capture.shadow import shadow
from secateur.capture.switches import recording_context
from secateur.coupling.layers import LayerCall, layer_of
from secateur.errors import CaptureError
from secateur.graph.keep import positions
from secateur.recovery.layers import (
    Readers,
    constant_place,
    has_lost,
    is_complex,
    own_place,
    unknown_layers,
)
from secateur.recovery.step import Recovery, Subject, step

_PROBES = 2
"""Random inputs on which a response must stay the same to be called constant."""

_UNIFORM = 1e-5
"""Relative spread below which a response counts as the same everywhere in float32."""

_NEAR = 1e-3
"""A response that spreads less, computed in float32, is looked at in float64."""


_Named: TypeAlias = tuple[Any, Mapping[str, Any]]
"""An operator with its arguments by name."""


@dataclass
class _Lost:
    """What one layer loses: running sums over everything but the channels.

    Attributes:
        is_known: The mean is that of the data, or the same for every input.
    """

    total: Tensor
    count: int
    low: Tensor
    high: Tensor
    inputs: int
    is_known: bool = True

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)

    @property
    def is_uniform(self) -> bool:
        return self.is_next_to_nothing(self.high - self.low)

    def is_next_to_nothing(self, spread: Tensor) -> bool:
        """Whether a spread is rounding, beside the response."""
        size = max(float(self.high.abs().max()), float(self.low.abs().max()), 1e-12)
        return float(spread.abs().max()) <= _UNIFORM * size

    def widen(self, other: "_Lost") -> None:
        """Take the spread of another run, and leave the mean as it is."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)

    def with_call(self, other: "_Lost") -> "_Lost":
        """What a layer loses in two runs, or that is called twice: its one bias takes the mean over both."""
        return _Lost(
            self.total + other.total,
            self.count + other.count,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            self.inputs,
            self.is_known and other.is_known,
        )


@step("absorb", needs_fresh=True)
def absorb(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Move the constant response of removed channels into the next layer.

    Args:
        subject: The cut model, fresh, and where it comes from; without data the constants come from batch
            norm, and what depends on the input is left alone.

    Returns:
        A new model, and for each layer that lost inputs what was done.

    Raises:
        CaptureError: A layer reads NaN or infinity.
    """
    graph, layers = subject.groups.graph, _layers(subject)
    left = [one.name for one in layers.values() if is_complex(graph, one)]
    layers = {index: one for index, one in layers.items() if not is_complex(graph, one)}
    lost = _constants(subject, layers) if subject.data is None else _means(subject, layers)
    cut = copy_module(subject.cut)
    readers = Readers(graph)
    joined = _by_place(readers, cut, layers, lost)
    notes = [Recovery("absorb", name, "left alone", "its numbers are complex") for name in left]
    notes += [Recovery("absorb", name, "left alone", why) for name, why in unknown_layers(subject)]
    return cut, [*notes, *(_move(subject, readers, cut, calls, one) for calls, one in joined)]


def _layers(subject: Subject) -> dict[int, LayerCall]:
    """The calls whose input lost positions, by node."""
    found = (layer_of(subject.groups.graph, node) for node in subject.groups.graph.nodes)
    return {one.node.index: one for one in found if one is not None and has_lost(subject, one)}


def _means(subject: Subject, layers: dict[int, LayerCall]) -> dict[int, _Lost]:
    """What is lost on the data."""
    assert subject.data is not None, "called with data"
    watcher = _Watcher(subject, layers)
    tapes = Tapes(shadow(subject.original), subject.groups.graph)
    for number, batch in enumerate(subject.data):
        watcher.source = f"batch {number} of the data"
        with naming_batch(number):
            watcher.replay(Replay(tapes.of(batch), tapes.model, batch))
    return watcher.lost


def _constants(subject: Subject, layers: dict[int, LayerCall]) -> dict[int, _Lost]:
    """What is lost whatever the input: one example, of zeros perhaps, makes anything look constant.

    The mean is that with the scales at zero, and known if it is the same on random inputs. The spread is that
    with the scales as they are: a channel whose scale is small, but not zero, is no constant.
    """
    silenced = _silence(subject)
    watcher = _Watcher(subject, layers)
    watcher.run(silenced, subject.example_inputs)
    lost = watcher.lost
    try:
        for inputs in _draws(subject.example_inputs):
            still, moving = _Watcher(subject, layers), _Watcher(subject, layers)
            with naming_batch(0):
                still.run(silenced, inputs)
                moving.run(subject.original, inputs)
            for index, one in lost.items():
                one.is_known &= still.lost[index].is_next_to_nothing(still.lost[index].mean - one.mean)
                one.widen(moving.lost[index])
    except CaptureError:  # its path depends on numbers, so nothing is known to be constant
        for one in lost.values():
            one.is_known = False
    return lost


def _draws(example_inputs: Any) -> Iterator[Any]:
    """Random inputs like the example; whole numbers between its least and its greatest.

    Raises:
        CaptureError: Its whole numbers are all the same, so there is nothing to draw from.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point() or leaf.is_complex():
            return torch.randn(leaf.shape, generator=generator, device="cpu").to(leaf)
        low, high = int(leaf.min()), int(leaf.max())
        if low == high:
            raise CaptureError(f"an input holds nothing but {low}")
        return torch.randint(low, high + 1, leaf.shape, generator=generator, device="cpu").to(leaf)

    for _ in range(_PROBES):
        yield map_inputs(example_inputs, draw)


def _by_place(
    readers: Readers, cut: nn.Module, layers: dict[int, LayerCall], lost: dict[int, _Lost]
) -> list[tuple[list[LayerCall], _Lost]]:
    """What is lost for each tensor that can hold it; the calls of a shared layer are joined."""
    joined: dict[int, tuple[list[LayerCall], _Lost]] = {}
    for index, one in lost.items():
        place = own_place(readers, cut, layers[index])
        key = -1 - index if place is None else id(place[0])
        calls, known = joined.get(key, ([], None))
        joined[key] = [*calls, layers[index]], one if known is None else known.with_call(one)
    return list(joined.values())


def _silence(subject: Subject) -> nn.Module:
    """Copy the original with the scale of every removed channel at zero, in the norms of single channels."""
    model = copy_module(subject.original)
    named = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for group in subject.groups:
            gone = torch.from_numpy(subject.kept.removed(group.axis))
            for member in group.members:
                if member.is_norm_scale:
                    rows = positions(member.expr, group.axis)[gone].reshape(-1)
                    named[member.tensor][torch.from_numpy(rows)] = 0
    return model


class _Watcher:
    """Computes at every layer that lost inputs what these contribute.

    Attributes:
        source: What the model is run on, in words.
    """

    def __init__(self, subject: Subject, layers: dict[int, LayerCall]) -> None:
        self.subject = subject
        self.layers = layers
        self.source = "the example inputs"
        self.lost: dict[int, _Lost] = {}

    def run(self, model: nn.Module, inputs: Any) -> None:
        """Watch one run of a copy of a model; neither it nor the inputs are changed."""
        graph = self.subject.groups.graph
        for index, one in observe(model, inputs, graph, lambda *_: dict[int, _Lost](), self._step).items():
            self._note(index, one)

    def replay(self, replay: Replay) -> None:
        """Watch a replay, as far as the last of the layers."""
        for index in sorted(self.layers):
            replay.advance(index)
            call = replay.tape.calls[index].func, replay.named(index)
            with recording_context():
                lost = self._watch(call, self.layers[index])
            self._note(index, lost)

    def _note(self, index: int, lost: _Lost) -> None:
        self.lost[index] = self.lost[index].with_call(lost) if index in self.lost else lost

    def _step(self, seen: dict[int, _Lost], call: Call) -> Any:
        if call.node.index in self.layers:
            seen[call.node.index] = self._watch((call.func, call.named()), self.layers[call.node.index])
        return call.run()

    def _watch(self, call: _Named, layer: LayerCall) -> _Lost:
        channels = self.subject.groups.findings.dims[layer.input][layer.channels_at]
        kept = torch.from_numpy(self.subject.kept.mask(channels))
        lost = self._lost_of(call, layer, kept, torch.float32)
        if float((lost.high - lost.low).abs().max()) < _NEAR * float(
            torch.maximum(lost.high, -lost.low).max()
        ):
            lost = self._lost_of(call, layer, kept, torch.float64)
        return lost

    def _lost_of(self, call: _Named, layer: LayerCall, kept: Tensor, dtype: torch.dtype) -> _Lost:
        at = layer.channels_at
        output = _linear_part(call, layer, kept, dtype)
        rows = output.movedim(at, 0).reshape(output.shape[at], -1).cpu()
        low, high = rows.amin(1), rows.amax(1)
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise CaptureError(
                f"layer {layer.name} reads NaN or infinity on {self.source}",
                [str(layer.node)],
                "leave out what is not finite in the data, or find the layer that overflows",
            )
        total = rows.sum(1, dtype=torch.float64)
        return _Lost(total, rows.shape[1], low.double(), high.double(), int((~kept).sum()))


def _linear_part(call: _Named, layer: LayerCall, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """What a layer makes of the removed positions alone, without its bias, in a type or one that is finer."""
    func, named = call
    name, weight_name = layer.arguments
    inputs, weight = named[name], named[weight_name]
    dtype = torch.promote_types(dtype, inputs.dtype)
    gone = (~kept).nonzero()[:, 0].to(inputs.device)
    at = inputs.dim() + layer.channels_at
    if layer.spatial and int(named["groups"]) > 1:
        inputs = inputs.index_fill(at, kept.nonzero()[:, 0].to(inputs.device), 0)
    else:
        inputs, weight = inputs.index_select(at, gone), weight.index_select(_inputs_at(layer), gone)
    inputs, weight = inputs.to(dtype), weight.to(dtype)
    if layer.is_product:
        return inputs @ weight
    output: Tensor = func(**{**named, name: inputs, weight_name: weight, "bias": None})
    return output


def _inputs_at(layer: LayerCall) -> int:
    """Along which dim of the weight, as the call takes it, the inputs lie."""
    return 0 if layer.is_transposed or layer.is_product else 1


def _move(
    subject: Subject, readers: Readers, cut: nn.Module, calls: Sequence[LayerCall], lost: _Lost
) -> Recovery:
    """Add the lost constant of one layer to its bias, or to the batch norm behind it."""
    layer = calls[0]
    found, place = own_place(readers, cut, layer), constant_place(readers, cut, calls)
    if place is None:
        why = "no bias and no batch norm takes the constant"
        if found is not None:
            why = f"{found[2]} is also used where this was not lost"
        return Recovery("absorb", layer.name, "left alone", why)
    if not all(readers.is_entrywise(call.weight) for call in calls):
        return Recovery("absorb", layer.name, "left alone", "its weight is computed")
    if not lost.is_known:
        why = "what it lost depends on the input, pass data"
        return Recovery("absorb", layer.name, "left alone", why)
    target, sign, described = place
    channels = subject.groups.findings.dims[layer.output][layer.channels_at]
    kept = torch.from_numpy(subject.kept.mask(channels))
    with torch.no_grad():
        target += sign * lost.mean[kept].to(target)
    done = f"{lost.inputs} inputs went into {described}"
    if lost.is_uniform:
        return Recovery("absorb", layer.name, "exact", done)
    return Recovery("absorb", layer.name, "approximate", f"{done}, the mean of a varying response")
