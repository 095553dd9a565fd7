"""A model beside its record: what every stage from coupling to the proof starts from."""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from torch import nn

from secateur.capture import capture
from secateur.capture.batches import Sample
from secateur.capture.foreign import WatchingRecorder, memory_of
from secateur.capture.meta import placed
from secateur.capture.reach import reach
from secateur.capture.recording import record
from secateur.capture.shadow import shadow
from secateur.capture.state import Counting
from secateur.capture.switches import garbage_waits
from secateur.capture.variants import Variant, variants_of
from secateur.capture.visible import find_visible
from secateur.coupling.adapters import has_adapters, ranks_of
from secateur.coupling.groups import Groups
from secateur.coupling.situations import Situation, other_situations
from secateur.coupling.solve import couple_graph
from secateur.coupling.training import (
    TrainingRecord,
    record_training,
    trains_alike,
    unused_parameters,
    used_parameters,
    wired_in,
    within_reach,
)
from secateur.errors import CaptureError, ForeignTensorError, PathError, UnstablePathError
from secateur.graph.node import Graph

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Recorded:
    """A model, inputs that it runs on, and the record of that run.

    Attributes:
        model: The model; not changed.
        inputs: What it was recorded on, on its device.
        graph: The record.
        sample: A batch with what should come out, for models that train on that; None if there is none.

    Example:
        >>> import torch
        >>> recorded = Recorded.of(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), torch.zeros(1, 2))
        >>> [group.name for group in recorded.couple().prunable], recorded.graph.substrate
        (['0'], 'fake')
    """

    model: nn.Module
    inputs: Any
    graph: Graph
    sample: Sample | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Any,
        substrate: str = "auto",
        state: Collection[str] | Counting | None = None,
        sample: Sample | None = None,
    ) -> "Recorded":
        """Record a model.

        Args:
            model: Any module; not changed.
            example_inputs: As for `secateur.couple`.
            substrate: As for `secateur.capture.capture`.
            state: As for `secateur.capture.capture`.
            sample: A batch with what should come out; None if there is none.

        Raises:
            CaptureError: The model cannot be run on these inputs.
        """
        model, example_inputs = placed(model, example_inputs)
        return cls(model, example_inputs, capture(model, example_inputs, substrate, state), sample)

    def record(self, model: nn.Module) -> tuple[Graph, Exception | None]:
        """Record another model on the same inputs and the same kind of tensors, as far as it runs.

        Raises:
            ForeignTensorError: It computes with tensors of this one.
        """
        graph, is_other = self.graph, model is not self.model
        make = partial(WatchingRecorder, foreign=memory_of(self.model) if is_other else {})
        found, failure = record(
            model, self.inputs, graph.substrate, training=graph.training, state=graph.state, make=make
        )
        if isinstance(failure, ForeignTensorError):
            raise failure
        return found, failure

    @cached_property
    def others(self) -> "tuple[tuple[Variant | None, Recorded], ...]":
        """The model as it is called otherwise, recorded too, and how; None is in training mode.

        Of a model that looks at numbers there are none: only the proof by number follows it there.
        """
        found: list[tuple[Variant | None, Recorded]] = []
        for variant in variants_of(self.model, self.inputs) if self.graph.substrate != "real" else ():
            with suppress(CaptureError):
                prepared = variant.prepare(shadow(self.model))
                graph = capture(prepared, variant.inputs, state=self.graph.state)
                found.append((variant, Recorded(prepared, variant.inputs, graph)))
        if self._may_read_more_in_training:
            found.append((None, Recorded(self.model, self.trained.inputs, self.trained.graph)))
        return tuple(found)

    @cached_property
    def _may_read_more_in_training(self) -> bool:
        """Whether integers may be read in training mode, recorded to its end, that the eval mode does not."""
        if self.trained.failure is not None:
            return False
        return "training" in reach(self.model).named or not trains_alike(self.graph, self.trained.graph)

    @cached_property
    def trained(self) -> TrainingRecord:
        """The training mode."""
        kind = self.graph.substrate
        found = self._train(kind)
        return found if found.failure is None or kind == "real" else self._train("real", found)

    def _train(self, kind: str, best: TrainingRecord | None = None) -> TrainingRecord:
        def run(inputs: Any) -> tuple[Graph, Exception | None]:
            return record(self.model, inputs, kind, training=True, state=self.graph.state)

        found = record_training(self.model, self.inputs, self.sample, run)
        is_better = best is None or found.failure is None
        return found if is_better or best is None else best

    @cached_property
    def training_only(self) -> Mapping[str, str]:
        """The groups that training treats otherwise than the eval mode, with the reason."""
        trained = self.trained
        unread = unused_parameters(self.graph)
        if trained.failure is None and not unread and trains_alike(self.graph, trained.graph):
            return {}
        groups = self._alone
        found = wired_in(groups, trained.graph, "in training mode")
        unread -= used_parameters(trained.graph)
        if not unread:
            return found
        visible = find_visible(self.model, self.inputs, self.graph, self.graph.state)
        return {**within_reach(groups, unread, visible), **found}

    @cached_property
    def situations(self) -> tuple[tuple[Situation, Graph], ...]:
        """Where the model takes other paths, with a record of each."""
        return tuple(other_situations(self.model, self.inputs, self.graph, self.trained))

    @cached_property
    def elsewhere(self) -> Mapping[str, str]:
        """The groups that other paths treat otherwise, with the reason."""
        found: dict[str, str] = {}
        for situation, graph in self.situations:
            found.update(wired_in(self._alone, graph, situation.words))
        return found

    @cached_property
    def _alone(self) -> Groups:
        """What the record by itself says; only to be read."""
        return couple_graph(self.graph)

    def look_around(self) -> None:
        """Record now what is recorded beside the example before it is coupled, one run after the other."""
        _ = self.training_only, self.elsewhere

    @cached_property
    def ranks(self) -> Mapping[str, str]:
        """The groups that are the rank of an adapter, with the reason."""
        named = self.model.named_parameters(remove_duplicate=False)
        frozen = {name for name, held in named if not held.requires_grad}
        return ranks_of(self._alone, frozen) if has_adapters(self.graph, frozen) else {}

    @garbage_waits()
    def couple(
        self,
        protect: Sequence[str] = (),
        vetoes: Mapping[str, str] | None = None,
        axes: str = "heads",
        wanted: Collection[str] = (),
    ) -> Groups:
        """Find which dims share an axis; see `secateur.coupling.couple_graph`.

        Args:
            protect: Patterns of module or parameter names whose tensors must keep their shapes.
            vetoes: Groups that may not be cut, by name, with the reason.
            axes: What is cut where two free axes multiply.
            wanted: Patterns of groups that are asked for by name: the rank of an adapter goes only so.
        """
        ranks = {
            name: reason
            for name, reason in self.ranks.items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
        }
        known = {**self.elsewhere, **self.training_only, **ranks}
        return couple_graph(self.graph, protect, {**known, **(vetoes or {})}, axes)


def on_any_substrate(run: Callable[[str], Made], first: str = "auto") -> Made:
    """Work with a record on fake tensors; if the model proves to run otherwise on real ones, on those.

    Some models fill a cache at their first run, and are given a second try. Some ask whether they run on fake
    tensors, and take another path on real ones.

    Args:
        run: Is given the substrate to record on.
        first: The substrate to begin with.

    Raises:
        PathError: It fails on real tensors, too.
    """
    try:
        try:
            return run(first)
        except UnstablePathError:
            return run(first)
    except PathError:
        if first == "real":
            raise
        return run("real")
