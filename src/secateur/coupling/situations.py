"""Situations in which a model takes another path than in its record: a later call, another batch, luck.

A forward may count its calls, look at the size of the batch, or draw what it does. So the original is
recorded again in other situations; where it calls other operators, the proof is made there, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call, map_inputs
from secateur.capture.paths import path_of, record_path
from secateur.capture.reach import Reach, reach
from secateur.capture.recorder import Recorder
from secateur.capture.recording import Moment, record
from secateur.coupling.training import TrainingRecord
from secateur.graph.node import Graph, Node

_BATCHES = (1, 2, 3)
_LARGEST = 256
"""The largest batch that is tried where the model's code compares with a number."""

_CALLS = (1, 2)
_COUNTED = (3, 4, 5, 6, 7)
"""Calls that come before where the model counts them."""

_SEEDS = tuple(range(1, 13))
_NEAR = 3
"""So many numbers of the model's code are tried."""

_PATHS = 3
"""So many other paths are proven for each kind of situation."""


@dataclass(frozen=True, eq=False)
class Situation:
    """Where a model takes another path.

    Attributes:
        words: When that is.
        inputs: What it is given.
        moment: At which call, with which random numbers.
        is_drawn: The numbers in the inputs do not count.
        training: It is in training mode.
    """

    words: str
    inputs: Any
    moment: Moment = field(default_factory=Moment)
    is_drawn: bool = True
    training: bool = False


def other_situations(
    model: nn.Module, inputs: Any, graph: Graph, trained: TrainingRecord
) -> Iterator[tuple[Situation, Graph]]:
    """Find situations in which a model takes other paths than in its records.

    Args:
        model: The recorded model; not changed.
        inputs: What it was recorded on.
        graph: Its record in eval mode.
        trained: In training mode.

    Yields:
        The situation and the record in it.

    Example:
        >>> class Late(nn.Module):
        ...     calls = 0
        ...     def forward(self, x):
        ...         self.calls += 1
        ...         return x.relu() if self.calls > 2 else x
        >>> from secateur.coupling import Recorded
        >>> [one.words for one, _ in Recorded.of(Late(), torch.zeros(1, 3)).situations]
        ['at call 3']
    """
    known = {path_of(graph), path_of(trained.graph)}
    code = reach(model)
    kinds = (
        _calls(model, inputs, graph),
        _batches(code, inputs),
        _lengths(code, inputs),
        _lucks(code, inputs, graph, trained),
    )
    for tries in kinds:
        found = 0
        for at, one in enumerate(tries):
            kind = "real" if one.training else graph.substrate
            options: dict[str, Any] = {"training": one.training, "state": graph.state, "moment": one.moment}
            if at:  # the first of a kind, such as a batch of one, takes a path of its own more often than not
                path, failure = record_path(model, one.inputs, kind, **options)
                if failure is not None or path in known:
                    continue
            again, failure = record(model, one.inputs, kind, **options)
            if failure is not None or path_of(again) in known:
                continue
            known.add(path_of(again))
            yield one, again
            found += 1
            if found == _PATHS:
                break


def _calls(model: nn.Module, inputs: Any, graph: Graph) -> Iterator[Situation]:
    """Later calls: the next ones, and more where a number of the model changes with each."""
    if not graph.leaves_traces:
        return
    for calls in _CALLS:
        yield Situation(f"at call {calls + 1}", inputs, Moment(calls))
    for calls in _COUNTED if _is_counting(model, inputs, graph) else ():
        yield Situation(f"at call {calls + 1}", inputs, Moment(calls))


def _is_counting(model: nn.Module, inputs: Any, graph: Graph) -> bool:
    """Whether numbers that modules hold are others after a call."""
    held: list[nn.Module] = []

    def make(copied: nn.Module) -> Recorder:
        held.append(copied)
        return Recorder(copied)

    record(model, inputs, graph.substrate, state=graph.state, make=make)
    return any(
        _numbers_of(one) != _numbers_of(two)
        for one, two in zip(model.modules(), held[0].modules(), strict=False)
    )


def _numbers_of(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float))}


def _numbers_near(code: Reach) -> list[int]:
    """The whole numbers with which the model's code compares, and those that follow them, the least first."""
    near = {at for number in code.compared for at in (number, number + 1)}
    return sorted(at for at in near if max(_BATCHES) < at <= _LARGEST)[:_NEAR]


def _batches(code: Reach, inputs: Any) -> Iterator[Situation]:
    """Other numbers of samples, where code decides by sizes."""
    if not code.sizing or _has_lists(inputs):
        return
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) == 1:
        for count in dict.fromkeys((*_BATCHES, *_numbers_near(code))):
            if count not in sizes:
                given = map_inputs(inputs, partial(_of_length, dim=0, count=count))
                yield Situation(f"on a batch of {count}", given)


def _has_lists(inputs: Any) -> bool:
    """Whether samples come in a list, one tensor each."""
    args, kwargs = as_call(inputs)
    return any(isinstance(arg, (list, tuple)) for arg in (*args, *kwargs.values()))


def _lengths(code: Reach, inputs: Any) -> Iterator[Situation]:
    """Other lengths of sequences, where code decides by sizes."""
    if not code.sizing or _has_lists(inputs):
        return
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    ranks = {(leaf.dim(), leaf.is_floating_point()) for leaf in leaves}
    sizes = {leaf.shape[1] for leaf in leaves if leaf.dim() > 1}
    if ranks in ({(3, True)}, {(2, False)}) and len(sizes) == 1:
        for count in dict.fromkeys((1, *_numbers_near(code))):
            if count not in sizes:
                given = map_inputs(inputs, partial(_of_length, dim=1, count=count))
                yield Situation(f"on a length of {count}", given)


def _of_length(leaf: Tensor, dim: int, count: int) -> Tensor:
    if not leaf.dim():
        return leaf
    times = -(-count // leaf.shape[dim])
    times_each = (times if at == dim else 1 for at in range(leaf.dim()))
    return leaf.repeat(*times_each).narrow(dim, 0, count).contiguous().clone()  # with memory of its own


def _lucks(code: Reach, inputs: Any, graph: Graph, trained: TrainingRecord) -> Iterator[Situation]:
    """Other random numbers, for a model that draws; other inputs, for one that looks at numbers.

    On fake tensors no path depends on what an operator draws.
    """
    own, looks = code.draws & {"python", "numpy"}, graph.substrate == "real"
    if own or (looks and any(map(_draws, graph.nodes))):
        for seed in _SEEDS:
            yield Situation(f"with other random numbers (seed {seed})", inputs, Moment(seed=seed))
    looks = trained.graph.substrate == "real"
    if trained.failure is None and (own or (looks and any(map(_draws, trained.graph.nodes)))):
        for seed in _SEEDS:
            words = f"in training mode with other random numbers (seed {seed})"
            yield Situation(words, trained.inputs, Moment(seed=seed), is_drawn=False, training=True)
    if graph.substrate == "real":
        for words, change in _CHANGES:
            yield Situation(f"on inputs {words}", map_inputs(inputs, change), is_drawn=False)


def _draws(node: Node) -> bool:
    packet = getattr(torch.ops.aten, node.op.partition(".")[2], None)
    overload = getattr(packet, node.overload, None) if node.op.startswith("aten.") else None
    return overload is not None and torch.Tag.nondeterministic_seeded in overload.tags


def _scaled(leaf: Tensor, by: float) -> Tensor:
    return leaf * by if leaf.is_floating_point() else leaf


_CHANGES = (
    ("of the other sign", partial(_scaled, by=-1.0)),
    ("ten times as large", partial(_scaled, by=10.0)),
    ("of zeros", partial(_scaled, by=0.0)),
)
