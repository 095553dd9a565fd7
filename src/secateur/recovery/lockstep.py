"""Lockstep: dense and cut model stand at the same call, for all calibration batches at once.

A step stops at each layer that it improves, reads what has flowed so far, changes the layer, and goes on.
Each call of each model is made once for each batch, whatever the number of layers. What must be held is what
flows between two layers: the live activations of all batches, a few tensors for each. Where they would take
more than the limit, fewer batches are used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.capture.batches import naming_batch
from secateur.capture.replay import Replay, Tape, Tapes
from secateur.capture.shadow import shadow
from secateur.recovery.step import Subject


@dataclass(frozen=True, eq=False)
class Pair:
    """Both models on one batch.

    Attributes:
        number: The batch's place in the data, from 0.
        cut: The cut model.
        dense: The original; None if the step does not compare.
    """

    number: int
    cut: Replay
    dense: Replay | None = None


@dataclass(frozen=True, eq=False)
class Lockstep:
    """The batches of a calibration.

    Attributes:
        pairs: One for each batch that is used.
        note: Why not all batches are used, or that the first takes more than it may; else empty.
    """

    pairs: tuple[Pair, ...]
    note: str = ""


def start(
    subject: Subject,
    cut: nn.Module,
    stops: Sequence[int],
    *,
    with_dense: bool,
    replay: Callable[[Tape, nn.Module, Any], Replay] = Replay,
) -> Lockstep:
    """Make the replays of all batches, at the first call.

    Args:
        subject: The models and the batches.
        cut: The cut model that the step changes on the way.
        stops: The calls before which the step will stop.
        with_dense: Run the original, too.
        replay: How the cut model is run.

    Raises:
        PathError: A batch takes another path than the example inputs.
        CaptureError: A model does not run on a batch.
    """
    graph, limit = subject.groups.graph, subject.memory_bytes
    models = [cut, shadow(subject.original)] if with_dense else [cut]
    tapes = [Tapes(model, graph) for model in models]
    pairs: list[Pair] = []
    live = dict.fromkeys(stops, 0)
    batches = subject.data or ()
    note = ""
    for number, batch in enumerate(batches):
        with naming_batch(number):
            found = [held.of(batch) for held in tapes]
        for stop in stops:
            live[stop] += sum(max(tape.bytes_before[stop : stop + 2]) for tape in found)
        is_over = max(live.values(), default=0) > limit
        if pairs and is_over:
            return Lockstep(tuple(pairs), note or _note(len(pairs), len(batches), limit))
        if is_over:
            note = _note_of_first(len(batches), limit)
        dense = [Replay(tape, model, batch) for tape, model in zip(found[1:], models[1:], strict=True)]
        pairs.append(Pair(number, replay(found[0], cut, batch), *dense))
    return Lockstep(tuple(pairs), note)


def _note(used: int, given: int, limit: int) -> str:
    return (
        f"{used} of {given} batches were used: between two layers the activations of more would take over "
        f"{limit / 2**20:,.0f} MiB (memory_bytes)"
    )


def _note_of_first(given: int, limit: int) -> str:
    return (
        f"1 of {given} batches was used, and it alone takes over {limit / 2**20:,.0f} MiB (memory_bytes) "
        "between two layers: pass smaller ones"
    )
