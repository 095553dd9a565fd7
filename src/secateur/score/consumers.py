"""Consumers: the layers that read a group, with the second moments of what flows into them.

One pass of the dense model over the data sums, for the layers of as many groups as fit into `MEMORY_BYTES`,
the products of their inputs (patches, for a convolution), in float64. Each batch gives a layer as many rows
as tell it something, drawn with a fixed seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.batches import Samples, naming_batch
from secateur.capture.follower import Step, observe
from secateur.coupling import Group, Groups
from secateur.coupling.layers import LayerCall, layer_of
from secateur.coupling.patches import Patches
from secateur.errors import CaptureError
from secateur.graph.axes import Axis, axes_in, resolve
from secateur.graph.keep import DimPlaces
from secateur.score.elimination import Consumer, shrinkage, shrunk

MEMORY_BYTES = 2**31
"""What the sums of the layers of one pass may take; the layers of one group always go together."""
_ROWS_PER_INPUT = 4
_FEWEST_ROWS = 8_192
_SAMPLED = 256
"""Inputs of a layer by which the shrinkage is found."""
_ABREAST = 32
"""Samples whose moments are made at once."""
_PIECE = 2**23


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer that reads a group, and where each channel lies among its inputs.

    Attributes:
        layer: The call.
        units: For each group of the convolution (one for a linear layer), the input channels of each channel.
    """

    layer: LayerCall
    units: Sequence[Tensor]


class ConsumerFinder:
    """Finds the layers that read a group.

    Args:
        groups: The groups of a model, with their record.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        graph = groups.graph
        self._layers = [layer for node in graph.nodes if (layer := layer_of(graph, node)) is not None]

    def of(self, group: Group) -> list[_Reader]:
        """The layers that sum over a group's channels; none of complex numbers."""
        found = (self._read(group, layer) for layer in self._layers)
        return [reader for reader in found if reader is not None]

    def _read(self, group: Group, layer: LayerCall) -> _Reader | None:
        graph = self.groups.graph
        dims = self.groups.findings.dims
        dim = resolve(dims[layer.input][layer.channels_at])
        is_live = layer.input in graph.from_inputs
        if not is_live or group.axis not in axes_in(dim) or not self._sums_over(layer, group.axis):
            return None
        if graph.values[layer.input].dtype.startswith("complex"):
            return None
        places = torch.from_numpy(DimPlaces(dim).of(group.axis))
        convolved = _convolved(layer)
        if places.shape[1] % convolved:
            return None
        parts = places.sort(1).values.reshape(len(places), convolved, -1)
        width = dim.size // convolved
        starts = torch.arange(convolved)[None, :, None] * width
        if not bool(((parts >= starts) & (parts < starts + width)).all()):
            return None
        return _Reader(layer, [(parts[:, one] - one * width) for one in range(convolved)])

    def _sums_over(self, layer: LayerCall, axis: Axis) -> bool:
        """Whether a layer mixes the positions of an axis; a convolution does not mix those of its groups."""
        if not layer.is_transposed:
            return axis in self.groups.summed.get(layer.node.index, frozenset())
        output = resolve(self.groups.findings.dims[layer.output][layer.channels_at])
        return _convolved(layer) == 1 or axis not in axes_in(output)


def _convolved(layer: LayerCall) -> int:
    """The groups of a convolution; 1 for a linear layer."""
    return int(layer.node.args.get("groups", 1)) if layer.spatial else 1


@dataclass(eq=False)
class _Sums:
    """Second moments of what one call reads, group of a convolution by group."""

    second: Tensor
    weight: Tensor
    kernel: int
    sampled: Tensor
    mean: Tensor
    square: Tensor
    samples: int = 0

    def shrinkage(self, group: int) -> float:
        """How far to shrink the moments of a group, by what its samples agree on."""
        count = max(1, self.samples)
        return shrinkage(self.mean[group] / count, self.square[group] / count, self.samples)


class Consumers:
    """What reads the groups of a model, and with which inputs.

    Args:
        model: The recorded model, with values; not changed.
        groups: Its groups.
        data: Read once for as many groups as fit.
    """

    def __init__(self, model: nn.Module, groups: Groups, data: Samples) -> None:
        self.model, self.groups, self.data = model, groups, data
        readers = ConsumerFinder(groups)
        self._readers = {group.name: readers.of(group) for group in groups.prunable}
        self._sums: dict[int, _Sums] = {}

    def has(self, group: Group) -> bool:
        """Whether a layer reads the group."""
        return bool(self._readers[group.name])

    def of(self, group: Group) -> list[Consumer]:
        """The layers that read a group; a pass over the data is made for it and those that come after it."""
        readers = self._readers[group.name]
        if any(reader.layer.node.index not in self._sums for reader in readers):
            self._sums = _gather(self.model, self.groups, self._next(group), self.data)
        return [made for reader in readers for made in self._consumers(reader)]

    def _next(self, group: Group) -> dict[int, LayerCall]:
        """The layers of this pass: of the group, and of the next ones while they fit."""
        names = list(self._readers)
        wanted: dict[int, LayerCall] = {}
        used = 0
        for name in names[names.index(group.name) :]:
            fresh = {reader.layer.node.index: reader.layer for reader in self._readers[name]}
            used += sum(self._bytes(layer) for at, layer in fresh.items() if at not in wanted)
            if wanted and used > MEMORY_BYTES:
                break
            wanted.update(fresh)
        return wanted

    def _bytes(self, layer: LayerCall) -> int:
        graph = self.groups.graph
        shape = graph.values[layer.node.args[layer.arguments[1]].value].shape
        convolved = _convolved(layer)
        inputs = graph.values[layer.input].shape[layer.channels_at] // convolved
        for size in shape[2:] if layer.spatial else ():
            inputs *= size
        return 8 * convolved * inputs * inputs

    def _consumers(self, reader: _Reader) -> Iterator[Consumer]:
        sums = self._sums[reader.layer.node.index]
        for at, units in enumerate(reader.units):
            inner = torch.arange(sums.kernel)
            rows = (units[:, :, None] * sums.kernel + inner).flatten(1).to(sums.second.device)
            yield Consumer(
                shrunk(sums.second[at], sums.shrinkage(at)), sums.weight[at], rows, reader.layer.name
            )


def _gather(
    model: nn.Module, groups: Groups, layers: Mapping[int, LayerCall], data: Samples
) -> dict[int, _Sums]:
    """Sum over all data.

    Raises:
        CaptureError: The model does not run on a batch, or a layer reads NaN or infinity; it is named.
        PathError: It takes another path than in its record.
    """
    found: dict[int, _Sums] = {}
    for sample in data:

        def on_step(seen: None, step: Step, number: int = sample.number) -> Any:
            layer = layers.get(step.node.index)
            if layer is not None:
                named = step.named()
                source = named[layer.arguments[0]]
                if not bool(torch.isfinite(source).all()):
                    raise CaptureError(
                        f"layer {layer.name} reads NaN or infinity on batch {number} of the data",
                        [str(layer.node)],
                        "leave out what is not finite in the data, or find the layer that overflows",
                    )
                _add(found, layer, named, number)
            return step.run()

        with naming_batch(sample.number):
            observe(model, sample.inputs, groups.graph, lambda *_: None, on_step)
    return found


def _add(found: dict[int, _Sums], layer: LayerCall, named: Mapping[str, Any], number: int) -> None:
    """Add what a call reads of one batch."""
    at = layer.node.index
    source = named[layer.arguments[0]].detach()
    patches = Patches(named, source)
    if at not in found:
        found[at] = _empty(layer, named, patches)
    sums = found[at]
    rows = _drawn(_samples(layer, source, patches.rows), patches.rows, sums, 1_000_003 * at + number)
    each = rows.shape[1]
    step = max(
        1, min(_PIECE // (patches.groups * sums.second.shape[-1] * each), _ABREAST if each > 1 else _PIECE)
    )
    for part in rows.split(step):
        taken = patches.take(part.flatten(), 0, patches.channels)
        sums.second.baddbmm_(taken.transpose(1, 2), taken)
        some = taken[:, :, sums.sampled].unflatten(1, (-1, each))
        if each == 1:
            single, squared = some[:, :, 0], some[:, :, 0].square()
            sums.mean.baddbmm_(single.transpose(1, 2), single)
            sums.square.baddbmm_(squared.transpose(1, 2), squared)
        else:
            made = some.transpose(2, 3) @ some / each
            sums.mean += made.sum(1)
            sums.square += made.square().sum(1)
    sums.samples += len(rows)


def _samples(layer: LayerCall, source: Tensor, rows: int) -> int:
    """How many samples a call reads: of them it is known that they have nothing to do with each other."""
    is_batched = source.dim() == layer.spatial + 2 if layer.spatial else source.dim() > 2
    if is_batched and rows % source.shape[0] == 0:
        return source.shape[0]
    return 1 if layer.spatial else rows


def _drawn(samples: int, rows: int, sums: "_Sums", seed: int) -> Tensor:
    """The rows that are looked at, those of each sample in a line: all, or as many as tell something."""
    each = rows // samples
    most = max(_ROWS_PER_INPUT * sums.second.shape[-1], _FEWEST_ROWS)
    generator = torch.Generator().manual_seed(seed)
    chosen, places = torch.arange(samples), torch.arange(each)
    if samples > most:
        chosen = torch.randperm(samples, generator=generator)[:most].sort().values
    if rows > most:
        places = torch.randperm(each, generator=generator)[: max(1, most // samples)].sort().values
    return chosen[:, None] * each + places


def _empty(layer: LayerCall, named: Mapping[str, Any], patches: Patches) -> _Sums:
    weight = named[layer.arguments[1]].detach().double()
    if layer.spatial == 0:
        held = weight if layer.is_product else weight.T
        held = held[None]
    elif layer.is_transposed:
        flipped = weight.flip(list(range(2, weight.dim()))).movedim(1, -1)
        held = flipped.reshape(patches.groups, -1, weight.shape[1])
    else:
        held = weight.reshape(patches.groups, -1, weight[0].numel()).transpose(1, 2)
    inputs = held.shape[1]
    drawn = torch.randperm(inputs, generator=torch.Generator().manual_seed(layer.node.index))[:_SAMPLED]
    second = torch.zeros(patches.groups, inputs, inputs, dtype=torch.float64, device=weight.device)
    drawn = drawn.sort().values.to(weight.device)
    mean = torch.zeros(patches.groups, len(drawn), len(drawn), dtype=torch.float64, device=weight.device)
    return _Sums(second, held, inputs // patches.channels, drawn, mean, torch.zeros_like(mean))
