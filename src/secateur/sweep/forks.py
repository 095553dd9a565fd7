"""Forks: run a classifier up to one place once, and go on from there many times with channels zeroed.

A naive sweep runs the whole network for every number of channels. Here the calls before the place are made
once; what they leave is kept (`stored.py`), and only the calls behind it are made again, for several choices
of channels in one batch: [choice 0 of all images, choice 1 of all images, ...].
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.capture.calls import record_calls
from secateur.capture.replay import Replay, Tape, record_tape
from secateur.errors import CaptureError, PathError, RequestError
from secateur.graph.node import Graph, Node, Ref
from secateur.sweep.places import GroupPlace, Place, Spot, find_end, find_place
from secateur.sweep.stored import State, Stored
from secateur.train.classifier import Part, choose_device, require_classifier


@dataclass(frozen=True, eq=False)
class Counts:
    """How the images of each class were classified.

    Attributes:
        confusion: Number of images by class and by answer, shape (classes, answers).
    """

    confusion: Tensor

    @property
    def accuracy(self) -> float:
        """The share of the images that were classified right."""
        return int(self.confusion.diagonal().sum()) / int(self.confusion.sum())

    @property
    def per_class_accuracy(self) -> tuple[float | None, ...]:
        """The same share among the images of each class; None for a class without images."""
        right, totals = self.confusion.diagonal().tolist(), self.confusion.sum(1).tolist()
        return tuple(hit / total if total else None for hit, total in zip(right, totals, strict=True))


class Forks:
    """A classifier and the images it is judged by.

    Args:
        model: The classifier; it is copied.
        part: The images, with labels.
        batch_size: Images per batch of the calls before a fork.
        fork_size: Images per batch of the calls behind it: fork_size // batch_size choices are run at once.
        device: As for `choose_device`.
        memory_bytes: How much of what is known at a fork stays in memory; the rest goes to disk.
        folder: Where on disk.

    Raises:
        RequestError: The model is no classifier of these images.
    """

    def __init__(
        self,
        model: nn.Module,
        part: Part,
        *,
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
        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).eval()
        require_classifier(self.model, part)
        self.part = part
        self.batch_size = batch_size
        self.at_once = fork_size // batch_size
        self.options = {"batch_size": batch_size, "fork_size": fork_size, "memory_bytes": memory_bytes}
        self._stored = Stored(memory_bytes, folder)
        self._place: Place | GroupPlace | None = None
        self._tapes: dict[int, Tape] = {}
        images = self._images(next(iter(part.batches(min(batch_size, len(part)))))[0])
        self.example = images
        self.graph, self.calls, failure = record_calls(self.model, images, "fake")
        if failure is not None:
            raise PathError(
                f"the model cannot be replayed: {type(failure).__name__}: {failure}",
                do="its control flow depends on numbers; choose another model",
            ) from failure

    def find(self, layer: str, where: str = "removed") -> Place:
        """The place of a layer's channels; see `find_place`."""
        return find_place(self.model, self.graph, self.calls, layer, where)

    def find_end(self, node: Node, where: str = "removed") -> Place:
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
        self, place: Place | GroupPlace, choices: Sequence[Sequence[int]], step: int | None = None
    ) -> Iterator[Counts]:
        """Classify all images once for each choice of channels to be zeroed.

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
            for batch, _ in self.part.batches(self.batch_size):
                images = self._images(batch)
                replay = Replay(self._tape(len(images)), self.model, images)
                replay.advance(node.index + 1)
                yield replay.results[slot]

    def _images(self, images: Tensor) -> Tensor:
        moved = images.to(self.device)
        return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved

    def _fill(self, place: Place | GroupPlace, times: int) -> None:
        """Make the calls before a place for every batch, and see that a fork without zeros is the model."""
        self.close()
        for number, (images, labels) in enumerate(self.part.batches(self.batch_size)):
            images = self._filled_up(self._images(images))
            replay = Replay(self._tape(len(images)), self.model, images)
            first = place.spots[0]
            replay.advance(first.position)
            state = State(dict(replay.values), labels.cpu())
            if not bool(torch.isfinite(state.values[first.value]).all()):
                raise CaptureError(
                    f"layer {place.name} returns NaN or infinity on batch {number} of the images",
                    do="mend the weights up to that layer, or the images",
                )
            if number == 0:
                self._require_same(place, state, times, images)
            self._stored.add(state)
        self._place = place

    def _size(self, state: State) -> int:
        """How many images a state is of, those that fill it up included."""
        return len(state.labels) if self.at_once == 1 else len(self.example)

    def _filled_up(self, images: Tensor) -> Tensor:
        """A last batch, which is short, with images once more behind it: then the same tapes serve it."""
        missing = len(self.example) - len(images)
        if self.at_once == 1 or missing <= 0:
            return images
        repeats = -(-missing // len(images))
        return self._images(torch.cat([images, torch.cat([images] * repeats)[:missing]]))

    def _require_same(self, place: Place | GroupPlace, state: State, times: int, images: Tensor) -> None:
        expected = self.model(images).float()
        if not bool(expected.isfinite().all()):
            raise CaptureError(
                "the model returns NaN or infinity on the images of the sweep",
                do="mend its weights, or the images; a criterion of activations such as apoz names the layer",
            )
        near = 1e-3 * float(expected.abs().max())
        for logits in self._fork(place, state, [()] * times):
            if not torch.allclose(logits, expected, rtol=1e-3, atol=near):
                raise PathError(
                    f"the calls behind {place.name} compute something else for {times} batches at once",
                    do="the model mixes the samples of a batch; pass fork_size=batch_size",
                )
        some = -(-len(images) // 2)
        alone = self.model(images[:some]).float() if self.at_once > 1 else expected[:some]
        if not torch.allclose(alone, expected[:some], rtol=1e-3, atol=near):
            raise PathError(
                f"the model computes something else for {some} images than for {len(images)}",
                do="the model mixes the samples of a batch; pass fork_size=batch_size",
            )

    def _together(self, place: Place | GroupPlace, choices: Sequence[Sequence[int]]) -> list[Counts]:
        total: Tensor | None = None
        for state in self._stored:
            logits = self._fork(place, state, choices)
            answers, classes = logits.argmax(-1).cpu(), max(logits.shape[-1], self.part.num_classes)
            cells = (state.labels * classes + answers[:, : len(state.labels)]).unsqueeze(-1)
            found = torch.zeros(len(choices), classes * classes, dtype=torch.int64)
            for row, cell in zip(found, cells, strict=True):
                row += torch.bincount(cell.flatten(), minlength=classes * classes)
            total = found if total is None else total + found
        assert total is not None, "a part is never empty, see require_classifier"
        squares = total.reshape(len(choices), classes, classes)
        return [Counts(square[: self.part.num_classes]) for square in squares]

    def _fork(self, place: Place | GroupPlace, state: State, choices: Sequence[Sequence[int]]) -> Tensor:
        """The logits of each choice, shape (choices, images, classes)."""
        images = self._size(state)
        tape, base = self._tape(images * len(choices)), self._tape(images)
        copies: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        for value, tensor in state.values.items():
            if id(tensor) not in copies:  # one tensor may be several values
                dim = _batch_dim(base.graph, tape.graph, value, len(choices))
                held = tensor.to(self.device)
                copies[id(tensor)] = held.clone() if dim is None else torch.cat([held] * len(choices), dim)
            values[value] = copies[id(tensor)]
        replay = Replay.standing_at(tape, self.model, place.spots[0].position, values)
        for spot in place.spots:
            replay.advance(spot.position)
            dim = _batch_dim(base.graph, tape.graph, spot.value, len(choices))
            self._zero(replay.values[spot.value], 0 if dim is None else dim, spot, choices)
        end, slot = _producer(tape.graph)
        replay.advance(end + 1)
        logits: Tensor = replay.results[slot]
        return logits.float().reshape(len(choices), images, -1)

    def _zero(self, values: Tensor, batch_dim: int, spot: Spot, choices: Sequence[Sequence[int]]) -> None:
        share = values.shape[batch_dim] // len(choices)
        for number, channels in enumerate(choices):
            if len(channels) > 0:
                index = torch.as_tensor(spot.positions(channels), device=self.device)
                values.narrow(batch_dim, number * share, share).index_fill_(spot.dim, index, 0)

    def _tape(self, images: int) -> Tape:
        if images not in self._tapes:
            repeats = -(-images // len(self.example))
            inputs = torch.cat([self.example] * repeats)[:images]
            graph, failure = self.graph, None
            if images != len(self.example):
                graph, _, failure = record_calls(self.model, self._images(inputs), "fake")
            same = failure is None and [n.op for n in graph.nodes] == [n.op for n in self.graph.nodes]
            if not same or len(graph.values) != len(self.graph.values):
                raise PathError(
                    f"the model takes another path for {images} images than for {len(self.example)}",
                    do="pass fork_size=batch_size and a batch_size that divides the number of images",
                )
            self._tapes[images] = record_tape(self.model, self._images(inputs), graph)
            if not self._tapes[images].is_general:
                raise PathError(
                    "the model computes tensors that belong to one batch; it cannot be replayed on others",
                    do="choose another model, or evaluate with hooks",
                )
        return self._tapes[images]


def _producer(graph: Graph) -> tuple[int, int]:
    """The last call that makes the first output of the model, and which of its results that is."""
    if not graph.outputs or graph.outputs[0] not in graph.maker:
        raise PathError(
            "no operator makes the output of the model", do="pass a model that computes its logits"
        )
    node = graph.maker[graph.outputs[0]]
    return node.index, node.outputs.index(Ref(graph.outputs[0]))


def _batch_dim(one: Graph, many: Graph, value: int, times: int) -> int | None:
    """Which dim of a value grows with the batch; None if none does."""
    before, after = one.values[value].shape, many.values[value].shape
    grown = [dim for dim, sizes in enumerate(zip(before, after, strict=True)) if sizes[0] != sizes[1]]
    if not grown:
        return None
    if len(grown) > 1 or after[grown[0]] != times * before[grown[0]]:
        raise PathError(
            f"a value of shape {list(before)} becomes {list(after)} for {times} times the images",
            do="the model mixes the samples of a batch; pass fork_size=batch_size",
        )
    return grown[0]
