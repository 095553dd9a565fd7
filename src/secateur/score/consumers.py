"""Consumers: the layers that read a group, with the second moments of what flows into them.

Products of queries with keys, which no layer makes, are in `logits`.

One pass of the dense model over the data sums, for the layers of as many groups as fit into `MEMORY_BYTES`,
the products of their inputs (patches, for a convolution): a piece in the type of the inputs, pieces in
float64 where a layer reads no more than `WIDE` inputs. Layers that read the same value, such as queries, keys
and values, share the sums. Each batch gives its share of as many rows as tell something, drawn with a fixed
seed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, prod
from operator import length_hint
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.batches import Samples, naming_batch
from secateur.capture.replay import Replay, Tapes
from secateur.capture.shadow import shadow
from secateur.coupling import Group, Groups
from secateur.coupling.layers import LayerCall, layer_of
from secateur.coupling.patches import Patches
from secateur.coupling.products import add_products, mirror
from secateur.errors import CaptureError
from secateur.graph.axes import Axis, axes_in, resolve
from secateur.graph.keep import DimPlaces
from secateur.score.elimination import WIDE, Consumer, InputMoments, shrinkage, shrunk
from secateur.score.few_rows import FewRows
from secateur.score.logits import (
    LogitsMoments,
    LogitsReader,
    gather_logits,
    logits_consumers,
    logits_readers,
    watched_queries,
)
from secateur.score.sensitivity import sensitivities

MEMORY_BYTES = 2**31
"""What the sums of the layers of one pass, and their inverses, may take; a group has one pass in any case."""
_ROWS_PER_INPUT = 4
_FEWEST_ROWS = 8_192
"""As many rows are looked at, of all data, where there are more; each batch gives its share."""
_INPUTS_PER_ROW = 4
"""While there are as many, rows are held rather than their products."""
_HELD = 2**20
"""Numbers of rows that wait for their product."""
_CLEAR = 1e-3
"""InputMoments that are shrunk by more are far enough from singular for float32."""
_NARROW = 128
"""Layers that read no more are in float64 in any case, which costs nothing."""
_SAMPLED = 128
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


_Inputs: TypeAlias = tuple[Any, ...]
"""What a call reads: a value, and the patches of it. Equal for calls that read the same rows."""


def _inputs(groups: Groups, layer: LayerCall) -> _Inputs:
    if not layer.spatial:
        return (layer.input,)
    args = layer.node.args
    shape = groups.graph.values[args[layer.arguments[1]].value].shape
    kernel = shape[2:]
    geometry = ("groups", "stride", "padding", "dilation", "transposed", "output_padding")
    return (layer.input, kernel, *(repr(args.get(name)) for name in geometry))


@dataclass(eq=False)
class _Sums:
    """Second moments of what calls read, group of a convolution by group; the rows, while they are few."""

    second: Tensor | None
    rows: list[Tensor]
    inputs: int
    kernel: int
    sampled: Tensor
    mean: Tensor
    square: Tensor
    samples: int = 0
    drawn: int = 0
    there: int = 0
    weights: dict[int, Tensor] = field(default_factory=dict)
    made: dict[int, InputMoments] = field(default_factory=dict)

    def add(self, taken: Tensor) -> None:
        """Add rows [groups, rows, inputs]; they are held until a product of them is worth its while."""
        self.rows.append(taken)
        if not self.are_few and sum(part.numel() for part in self.rows) > _HELD:
            self._multiply()

    @property
    def are_few(self) -> bool:
        """Whether the rows are held to the end."""
        return (
            self.second is None and _INPUTS_PER_ROW * sum(part.shape[1] for part in self.rows) <= self.inputs
        )

    def _multiply(self) -> None:
        """Add the products of the rows that are held: half of them, on and below the diagonal."""
        rows, self.rows = torch.cat(self.rows, 1), []
        if self.second is None:
            dtype = rows.dtype if self.inputs > WIDE else torch.float64
            self.second = rows.new_zeros(len(rows), self.inputs, self.inputs, dtype=dtype)
        add_products(self.second, rows)

    def moments(self, group: int) -> InputMoments:
        """Of one group, once all is added: shrunk, and for as many rows as there are."""
        if group not in self.made:
            self.made[group] = InputMoments(self._moments(group))
        return self.made[group]

    def _moments(self, group: int) -> Tensor | FewRows:
        share, scale = self.shrinkage(group), self.there / self.drawn
        dtype = torch.float32 if self.inputs > _NARROW and share > _CLEAR else torch.float64
        if self.rows and not self.are_few:
            self._multiply()
        if self.second is not None:
            made = shrunk(self.second[group].to(dtype), share).mul_(scale)
            if len(self.second) == 1:
                self.second = None  # it is not asked for again
            mirror(made)
            return made
        rows = torch.cat([part[group] for part in self.rows]).double() * scale**0.5
        return FewRows(rows * (1 - share) ** 0.5, share * rows.square().sum(0))

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
        asked: The groups that are asked for.
    """

    def __init__(
        self, model: nn.Module, groups: Groups, data: Samples, asked: Collection[str] | None = None
    ) -> None:
        self.model, self.groups, self.data = model, groups, data
        readers = ConsumerFinder(groups)
        wanted = [group for group in groups.prunable if asked is None or group.name in asked]
        self._readers = {group.name: readers.of(group) for group in wanted}
        self._products = logits_readers(groups, wanted)
        self._sums: dict[_Inputs, _Sums] = {}

    @cached_property
    def _tapes(self) -> Tapes:
        """The calls of a copy of the model."""
        return Tapes(shadow(self.model), self.groups.graph)

    @cached_property
    def _sensitivities(self) -> Mapping[int, Tensor]:
        """What a change of each layer's output counts, and of the queries of each product."""
        layers = {one.layer.node.index: one.layer for held in self._readers.values() for one in held}
        queries = watched_queries(self.groups, [one for held in self._products.values() for one in held])
        return sensitivities(self._tapes, {**queries, **layers}, self.data)

    @cached_property
    def _logits(self) -> Mapping[int, LogitsMoments]:
        """The second moments of all products of queries with keys that are asked for."""
        calls = {one.at: one.call for held in self._products.values() for one in held}
        return gather_logits(self.model, self.groups, list(calls.values()), self.data)

    def has(self, group: Group) -> bool:
        """Whether a layer or a product of queries with keys reads the group."""
        return bool(self._readers[group.name] or self._products[group.name])

    def of(self, group: Group) -> list[Consumer]:
        """What reads a group; a pass over the data is made for it and those that come after it."""
        readers = self._readers[group.name]
        if any(_inputs(self.groups, reader.layer) not in self._sums for reader in readers):
            self._sums = _gather(self._tapes, self.groups, self._next(group), self.data)
        found = [made for reader in readers for made in self._consumers(reader)]
        return found + [made for product in self._products[group.name] for made in self._heads(product)]

    def _heads(self, product: LogitsReader) -> list[Consumer]:
        maker = self.groups.graph.maker.get(product.call.query)
        gradients = None if maker is None else self._sensitivities.get(maker.index)
        return logits_consumers(product, self._logits[product.at], gradients)

    def _next(self, group: Group) -> list[LayerCall]:
        """The layers of this pass: of the group, and of the next ones while they fit."""
        names = list(self._readers)
        wanted: dict[int, LayerCall] = {}
        known: set[_Inputs] = set()
        used = 0.0
        for name in names[names.index(group.name) :]:
            for reader in self._readers[name]:
                inputs = _inputs(self.groups, reader.layer)
                used += 0 if inputs in known else self._bytes(reader.layer)
                known.add(inputs)
            if wanted and used > MEMORY_BYTES:
                break
            wanted.update((reader.layer.node.index, reader.layer) for reader in self._readers[name])
        return list(wanted.values())

    @cached_property
    def _times(self) -> float:
        """How often the data holds as much as the record does, about; infinite where that is not known."""
        batches, graph = length_hint(self.data.data, 0), self.groups.graph
        leaves = pytree.tree_leaves(next(iter(self.data)).inputs)
        there = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
        recorded = sum(prod(graph.values[value].shape) for value in graph.inputs)
        return batches * there / recorded if batches else inf

    def _bytes(self, layer: LayerCall) -> float:
        """What the sums of a layer, or its rows where they are few, take with their inverse."""
        graph = self.groups.graph
        shape = graph.values[layer.node.args[layer.arguments[1]].value].shape
        output = graph.values[layer.output].shape
        convolved = _convolved(layer)
        inputs = graph.values[layer.input].shape[layer.channels_at] // convolved
        inputs *= prod(shape[2:]) if layer.spatial else 1
        rows = prod(output) // output[layer.channels_at] * self._times
        return 2 * 8 * convolved * inputs * (rows if _INPUTS_PER_ROW * rows <= inputs else inputs)

    def _consumers(self, reader: _Reader) -> Iterator[Consumer]:
        sums = self._sums[_inputs(self.groups, reader.layer)]
        weight = sums.weights[reader.layer.node.index]
        found = self._sensitivities.get(reader.layer.node.index)
        counts = None if found is None else found.view(len(reader.units), -1)
        for at, units in enumerate(reader.units):
            inner = torch.arange(sums.kernel)
            rows = (units[:, :, None] * sums.kernel + inner).flatten(1).to(sums.sampled.device)
            yield Consumer(sums.moments(at), weight[at], rows, counts[at] if counts is not None else None)


def _gather(tapes: Tapes, groups: Groups, layers: Sequence[LayerCall], data: Samples) -> dict[_Inputs, _Sums]:
    """Sum over all data.

    Raises:
        CaptureError: The model does not run on a batch, or a layer reads NaN or infinity; it is named.
        PathError: It takes another path than in its record.
    """
    found: dict[_Inputs, _Sums] = {}
    batches = length_hint(data.data, 1)
    for sample in data:
        with naming_batch(sample.number):
            replay = Replay(tapes.of(sample.inputs), tapes.model, sample.inputs)
            added: set[_Inputs] = set()
            for layer in sorted(layers, key=lambda layer: layer.node.index):
                replay.advance(layer.node.index)
                inputs, named = _inputs(groups, layer), replay.named(layer.node.index)
                if inputs not in added:
                    added.add(inputs)
                    _require_finite(layer, named[layer.arguments[0]], sample.number)
                    _add(found, layer, inputs, named, (sample.number, batches))
                if layer.node.index not in found[inputs].weights:
                    found[inputs].weights[layer.node.index] = _laid_out(layer, named)
    return found


def _require_finite(layer: LayerCall, source: Tensor, number: int) -> None:
    if not bool(torch.isfinite(source).all()):
        raise CaptureError(
            f"layer {layer.name} reads NaN or infinity on batch {number} of the data",
            [str(layer.node)],
            "leave out what is not finite in the data, or find the layer that overflows",
        )


def _add(
    found: dict[_Inputs, _Sums],
    layer: LayerCall,
    inputs: _Inputs,
    named: Mapping[str, Any],
    batch: tuple[int, int],
) -> None:
    """Add what a call reads of one batch: its number, and how many there are."""
    source = named[layer.arguments[0]].detach()
    patches = Patches(named, source)
    if inputs not in found:
        found[inputs] = _empty(layer, patches, source.device)
    sums = found[inputs]
    most = max(_ROWS_PER_INPUT * sums.inputs, _FEWEST_ROWS) // batch[1]
    seed = 1_000_003 * layer.node.index + batch[0]
    rows = _drawn(_samples(layer, source, patches.rows), patches.rows, most, seed)
    each = rows.shape[1]
    step = max(1, min(_PIECE // (patches.groups * sums.inputs * each), _ABREAST if each > 1 else _PIECE))
    for part in rows.split(step):
        taken = patches.take(part.flatten(), 0, patches.channels, _summed_in(source))
        sums.add(taken)
        some = taken[:, :, sums.sampled].unflatten(1, (-1, each))
        if each == 1:
            single, squared = some[:, :, 0], some[:, :, 0].square()
            sums.mean += single.transpose(1, 2) @ single
            sums.square += squared.transpose(1, 2) @ squared
        else:
            made = some.transpose(2, 3) @ some / each
            sums.mean += made.sum(1)
            sums.square += made.square().sum(1)
    sums.samples += len(rows)
    sums.drawn += rows.numel()
    sums.there += patches.rows


def _summed_in(source: Tensor) -> torch.dtype:
    """The type in which a piece is summed: nothing shorter than float32."""
    return torch.float64 if source.dtype == torch.float64 else torch.float32


def _samples(layer: LayerCall, source: Tensor, rows: int) -> int:
    """How many samples a call reads: of them it is known that they have nothing to do with each other."""
    is_batched = source.dim() == layer.spatial + 2 if layer.spatial else source.dim() > 2
    if is_batched and rows % source.shape[0] == 0:
        return source.shape[0]
    return 1 if layer.spatial else rows


def _drawn(samples: int, rows: int, most: int, seed: int) -> Tensor:
    """The rows that are looked at, those of each sample in a line: all, or about as many as may be."""
    each = rows // samples
    generator = torch.Generator().manual_seed(seed)
    chosen, places = torch.arange(samples), torch.arange(each)
    if samples > most:
        chosen = torch.randperm(samples, generator=generator)[: max(1, most)].sort().values
    if rows > most:
        places = torch.randperm(each, generator=generator)[: max(1, most // samples)].sort().values
    return chosen[:, None] * each + places


def _laid_out(layer: LayerCall, named: Mapping[str, Any]) -> Tensor:
    """The weight of a call as [groups, inputs, outputs]."""
    weight = named[layer.arguments[1]].detach()
    convolved = _convolved(layer)
    if layer.spatial == 0:
        return (weight if layer.is_product else weight.T)[None]
    if layer.is_transposed:
        flipped = weight.flip(list(range(2, weight.dim()))).movedim(1, -1)
        return flipped.reshape(convolved, -1, weight.shape[1])
    return weight.reshape(convolved, -1, weight[0].numel()).transpose(1, 2)


def _empty(layer: LayerCall, patches: Patches, device: torch.device) -> _Sums:
    kernel = prod(patches.kernel)
    inputs = patches.channels * kernel
    drawn = torch.randperm(inputs, generator=torch.Generator().manual_seed(layer.node.index))[:_SAMPLED]
    drawn = drawn.sort().values.to(device)
    mean = torch.zeros(patches.groups, len(drawn), len(drawn), dtype=torch.float64, device=device)
    return _Sums(None, [], inputs, kernel, drawn, mean, torch.zeros_like(mean))
