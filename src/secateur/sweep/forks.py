"""Forks: run a network up to one place once, and go on from there many times with channels zeroed.

A naive sweep runs the whole network for every number of channels. Here the calls before the place are made
once; what they leave is kept (`stored.py`), and only the calls behind it are made again, for several choices
of channels in one batch: [choice 0 of all samples, choice 1 of all samples, ...]. The task judges what
comes out.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.calls import record_calls
from secateur.capture.inputs import map_inputs
from secateur.capture.replay import Replay, Tape, record_tape
from secateur.errors import CaptureError, PathError, RequestError
from secateur.extras import extra
from secateur.graph.node import Graph, Node
from secateur.sweep.answer import ReplayedOutput
from secateur.sweep.places import ChannelPlace, GroupPlace, Spot, find_end, find_place
from secateur.sweep.stored import State, Stored
from secateur.train.device import choose_device
from secateur.train.evaluation import laid_out
from secateur.train.task import Batch, Figures, Part, Task, run_on, tasks


@dataclass(frozen=True)
class Counts:
    """How good the model was with one choice of channels zeroed.

    Attributes:
        figures: What the task says; the first figure decides.
    """

    figures: Figures

    @property
    def value(self) -> float:
        """The deciding figure."""
        return self.figures.deciding

    @property
    def accuracy(self) -> float:
        """Of a classifier, the share of the images that were classified right."""
        return self.figures.values["accuracy"]

    @property
    def per_class_accuracy(self) -> tuple[float | None, ...]:
        """The same share among the images of each class, None for one without images; () of other tasks."""
        return tuple(self.figures.details.get("accuracy per class", ()))

    @property
    def confusion(self) -> Tensor:
        """Of a classifier, the number of images by class and by answer, shape (classes, answers)."""
        return torch.tensor(self.figures.details["confusion"])


class Forks:
    """A network and the samples it is judged by.

    Args:
        model: The network; it is copied.
        part: The samples, with what judges them.
        task: What the network is for (default: image classification).
        batch_size: Samples per batch of the calls before a fork.
        fork_size: Samples per batch of the calls behind it: fork_size // batch_size choices are run at once.
        device: As for `choose_device`.
        memory_bytes: How much of what is known at a fork stays in memory; the rest goes to disk.
        folder: Where on disk.

    Raises:
        RequestError: The model does not accept these samples.
    """

    def __init__(
        self,
        model: nn.Module,
        part: Part,
        *,
        task: Task | None = None,
        batch_size: int = 64,
        fork_size: int = 512,
        device: str = "auto",
        memory_bytes: int = 1 << 30,
        folder: Path | None = None,
    ) -> None:
        if not 1 <= batch_size <= fork_size:
            what = f"batch_size is {batch_size} and fork_size is {fork_size}"
            raise RequestError(what, do="pass 1 <= batch_size <= fork_size")
        self.device = choose_device(device)
        self.task = task or tasks["classification"]
        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).eval()
        self.task.require(self.model, part)
        self.part = part
        self.batch_size = batch_size
        self.at_once = fork_size // batch_size
        self.options = {
            "batch_size": batch_size, "fork_size": fork_size, "memory_bytes": memory_bytes, "task": self.task,
        }  # fmt: skip
        self._stored = Stored(memory_bytes, folder)
        self._place: ChannelPlace | GroupPlace | None = None
        self._tapes: dict[int, Tape] = {}
        batch = next(iter(part.batches(min(batch_size, len(part)))))
        self.size = self.task.count(batch)
        self.example = self._inputs(batch)
        self.graph, self.calls, failure = record_calls(self.model, self.example, "fake")
        if failure is not None:
            raise PathError(
                f"the model cannot be replayed: {type(failure).__name__}: {failure}",
                do="its control flow depends on numbers; choose another model",
            ) from failure
        with torch.inference_mode():
            self.answer = ReplayedOutput(run_on(self.model, self.example), self.graph)

    def find(self, layer: str, where: str = "removed") -> ChannelPlace:
        """The place of a layer's channels; see `find_place`."""
        return find_place(self.model, self.graph, self.calls, layer, where)

    def find_end(self, node: Node, where: str = "removed") -> ChannelPlace:
        """The place of what one operator makes; see `secateur.sweep.places.find_end`."""
        return find_end(self.model, self.graph, self.calls, node, where)

    def close(self) -> None:
        """Forget what is known at the last fork, on disk too."""
        self._stored.clear()
        self._place = None

    def step(self, choices: int) -> int:
        """How many of some choices run together: as even as can be, so that one tape serves all."""
        return -(-choices // -(-choices // self.at_once))

    def counts(
        self, place: ChannelPlace | GroupPlace, choices: Sequence[Sequence[int]], step: int | None = None
    ) -> Iterator[Counts]:
        """Judge the model on all samples once for each choice of channels to be zeroed.

        Args:
            place: Where they are zeroed.
            choices: Indices of channels; an empty choice is the model as it is.
            step: How many choices run together; None for what `step` says. With the same number, a choice is
                computed bit for bit as beside others.

        Yields:
            The counts of each choice, in order; as soon as the choices that run together are done.

        Raises:
            PathError: The model cannot be replayed, or a replay computes something else.
            CaptureError: What the layer returns is NaN or infinite.
        """
        if not choices:
            return
        step = self.step(len(choices)) if step is None else step
        with torch.inference_mode():
            if place != self._place:
                self._fill(place, step)
            for start in range(0, len(choices), step):
                chosen = choices[start : start + step]
                padded = [*chosen, *[()] * (step - len(chosen))]
                yield from self._together(place, padded)[: len(chosen)]

    def values(self, value: int) -> Iterator[Tensor]:
        """What the model computes as one value, for each batch of images.

        Args:
            value: Its index in the record.
        """
        node = self.graph.maker[value]
        slot = [ref and ref.value for ref in node.outputs].index(value)
        with torch.inference_mode():
            for batch in self.part.batches(self.batch_size):
                inputs = self._inputs(batch)
                replay = Replay(self._tape(self.task.count(batch)), self.model, inputs)
                replay.advance(node.index + 1)
                yield replay.results[slot]

    def _inputs(self, batch: Batch) -> Any:
        """What the model takes of a batch, on its device and in its memory format."""
        moved = map_inputs(self.task.inputs(batch), lambda leaf: leaf.to(self.device))
        return laid_out(moved, torch.channels_last)

    def _fill(self, place: ChannelPlace | GroupPlace, times: int) -> None:
        """Make the calls before a place for every batch, and see that a fork without zeros is the model."""
        self.close()
        for number, batch in enumerate(self.part.batches(self.batch_size)):
            count = self.task.count(batch)
            inputs, size = self._filled_up(self._inputs(batch), count)
            replay = Replay(self._tape(size), self.model, inputs)
            first = place.spots[0]
            replay.advance(first.position)
            state = State(dict(replay.values), size)
            if not bool(torch.isfinite(state.values[first.value]).all()):
                raise CaptureError(
                    f"layer {place.name} returns NaN or infinity on batch {number} of the data",
                    do="mend the weights up to that layer, or the data",
                )
            if number == 0:
                self._require_same(place, state, times, inputs)
            self._stored.add(state)
        self._place = place

    def _filled_up(self, inputs: Any, count: int) -> tuple[Any, int]:
        """A last batch, which is short, with samples once more behind it: then the same tapes serve it."""
        if self.at_once == 1 or count >= self.size:
            return inputs, count
        return self._resized(inputs, count, self.size), self.size

    def _resized(self, inputs: Any, count: int, size: int) -> Any:
        """So many samples, by repeating or leaving some; what all samples share stays."""

        def resize(leaf: Tensor) -> Tensor:
            if not leaf.ndim or len(leaf) != count:
                return leaf
            return leaf if size == count else torch.cat([leaf] * -(-size // count))[:size]

        return laid_out(map_inputs(inputs, resize), torch.channels_last)

    def _require_same(self, place: ChannelPlace | GroupPlace, state: State, times: int, inputs: Any) -> None:
        expected = self.answer.tensors(run_on(self.model, inputs))
        if not all(bool(one.isfinite().all()) for one in expected):
            raise CaptureError(
                "the model returns NaN or infinity on the data of the sweep",
                do="mend its weights, or the data; a criterion of activations such as apoz names the layer",
            )
        near = [1e-3 * float(one.float().abs().max()) if one.numel() else 0.0 for one in expected]

        def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
            pairs = zip(found, wanted, near, strict=True)
            return all(torch.allclose(a.float(), b.float(), rtol=1e-3, atol=most) for a, b, most in pairs)

        if not all(same(found, expected) for found in self._fork(place, state, [()] * times)):
            raise PathError(
                f"the calls behind {place.name} compute something else for {times} batches at once",
                do="the model mixes the samples of a batch; pass fork_size=batch_size",
            )
        some = -(-state.size // 2)
        if self.at_once > 1 and some < state.size:
            alone = self.answer.tensors(run_on(self.model, self._resized(inputs, state.size, some)))
            if not same(alone, [_some(one, state.size, some) for one in expected]):
                raise PathError(
                    f"the model computes something else for {some} {self.task.noun} than for {state.size}",
                    do="the model mixes the samples of a batch; pass fork_size=batch_size",
                )

    def _together(self, place: ChannelPlace | GroupPlace, choices: Sequence[Sequence[int]]) -> list[Counts]:
        with extra("train", "sweeps"):
            from lightning_fabric.utilities import move_data_to_device  # seconds of imports

        meters = [self.task.meter(self.model, self.part) for _ in choices]
        batches = self.part.batches(self.batch_size)
        for state, batch in zip(self._stored, batches, strict=True):
            moved, count = move_data_to_device(batch, self.device), self.task.count(batch)
            for meter, tensors in zip(meters, self._fork(place, state, choices), strict=True):
                meter.add(self.answer.of([_some(one, state.size, count) for one in tensors]), moved)
        return [Counts(meter.figures()) for meter in meters]

    def _fork(
        self, place: ChannelPlace | GroupPlace, state: State, choices: Sequence[Sequence[int]]
    ) -> list[list[Tensor]]:
        """The tensors that the model returns, for each choice."""
        tape, base = self._tape(state.size * len(choices)), self._tape(state.size)
        copies: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        for value, tensor in state.values.items():
            if id(tensor) not in copies:  # one tensor may be several values
                dim = _batch_dim(base.graph, tape.graph, value, len(choices))
                held = tensor.to(self.device)
                copies[id(tensor)] = held.clone() if dim is None else torch.cat([held] * len(choices), dim)
            values[value] = copies[id(tensor)]
        replay = Replay.standing_at(tape, self.model, place.spots[0].position, values)
        returned: dict[int, Tensor] = {}
        spots = {spot.position: spot for spot in place.spots}
        ends = self.answer.made
        for position in sorted({*spots, *(end + 1 for end, _ in ends.values())}):
            replay.advance(position)
            for value, (end, slot) in ends.items():
                if end + 1 == position:
                    returned[value] = replay.results[slot]
            if position in spots:
                spot = spots[position]
                dim = _batch_dim(base.graph, tape.graph, spot.value, len(choices))
                self._zero(replay.values[spot.value], 0 if dim is None else dim, spot, choices)
        shared: list[list[Tensor]] = [[] for _ in choices]
        for value in self.answer.values:
            dim = _batch_dim(base.graph, tape.graph, value, len(choices))
            whole = returned[value]
            if dim is None and len(choices) > 1 and value in self.graph.from_inputs:
                raise PathError(
                    f"the model returns {list(whole.shape)}, which says nothing of single samples",
                    do="pass fork_size=batch_size, or return what there is for each sample",
                )
            pieces = [whole] * len(choices) if dim is None else whole.chunk(len(choices), dim)
            for tensors, piece in zip(shared, pieces, strict=True):
                tensors.append(piece)
        return shared

    def _zero(self, values: Tensor, batch_dim: int, spot: Spot, choices: Sequence[Sequence[int]]) -> None:
        share = values.shape[batch_dim] // len(choices)
        for number, channels in enumerate(choices):
            if len(channels) > 0:
                index = torch.as_tensor(spot.positions(channels), device=self.device)
                values.narrow(batch_dim, number * share, share).index_fill_(spot.dim, index, 0)

    def _tape(self, size: int) -> Tape:
        if size not in self._tapes:
            inputs = self._resized(self.example, self.size, size)
            graph, failure = self.graph, None
            if size != self.size:
                graph, _, failure = record_calls(self.model, inputs, "fake")
            same = failure is None and [n.op for n in graph.nodes] == [n.op for n in self.graph.nodes]
            if not same or len(graph.values) != len(self.graph.values):
                raise PathError(
                    f"the model takes another path for {size} {self.task.noun} than for {self.size}",
                    do="pass fork_size=batch_size and a batch_size that divides the number of samples",
                )
            self._tapes[size] = record_tape(self.model, inputs, graph)
            if not self._tapes[size].is_general:
                raise PathError(
                    "the model computes tensors that belong to one batch; it cannot be replayed on others",
                    do="choose another model, or evaluate with hooks",
                )
        return self._tapes[size]


def _some(tensor: Tensor, size: int, count: int) -> Tensor:
    """The first samples of a batch; what has no samples stays."""
    dim = next((dim for dim, length in enumerate(tensor.shape) if length == size), None)
    return tensor if dim is None or count == size else tensor.narrow(dim, 0, count)


def _batch_dim(one: Graph, many: Graph, value: int, times: int) -> int | None:
    """Which dim of a value grows with the batch; None if none does."""
    before, after = one.values[value].shape, many.values[value].shape
    grown = [dim for dim, sizes in enumerate(zip(before, after, strict=True)) if sizes[0] != sizes[1]]
    if not grown:
        return None
    if len(grown) > 1 or after[grown[0]] != times * before[grown[0]]:
        raise PathError(
            f"a value of shape {list(before)} becomes {list(after)} for {times} times the samples",
            do="the model mixes the samples of a batch; pass fork_size=batch_size",
        )
    return grown[0]
