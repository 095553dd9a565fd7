"""A model beside its record: what every stage from coupling to the proof starts from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from torch import nn

from secateur.capture import capture
from secateur.capture.meta import placed
from secateur.capture.recorder import record
from secateur.coupling.groups import Groups
from secateur.coupling.solve import couple_graph
from secateur.coupling.training import has_unused_parameters, read_in_training_only
from secateur.errors import PathError, UnstablePathError
from secateur.graph.node import Graph

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Recorded:
    """A model, inputs that it runs on, and the record of that run.

    Attributes:
        model: The model; not changed.
        inputs: What it was recorded on, on its device.
        graph: The record.

    Example:
        >>> import torch
        >>> recorded = Recorded.of(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), torch.zeros(1, 2))
        >>> [group.name for group in recorded.couple().prunable], recorded.graph.substrate
        (['0'], 'fake')
    """

    model: nn.Module
    inputs: Any
    graph: Graph

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Any,
        substrate: str = "auto",
        state: Collection[str] | None = None,
    ) -> "Recorded":
        """Record a model.

        Args:
            model: Any module; not changed.
            example_inputs: As for `secateur.couple`.
            substrate: As for `secateur.capture.capture`.
            state: Names of what the model returns for its next call only; None to find them.

        Raises:
            CaptureError: The model cannot be run on these inputs.
        """
        model, example_inputs = placed(model, example_inputs)
        return cls(model, example_inputs, capture(model, example_inputs, substrate, state))

    def record(self, model: nn.Module, *, training: bool = False) -> tuple[Graph, Exception | None]:
        """Record another model on the same inputs and the same kind of tensors, as far as it runs."""
        graph = self.graph
        return record(model, self.inputs, graph.substrate, training=training, state=graph.state)

    @cached_property
    def training_only(self) -> Mapping[str, str]:
        """The groups that parts read which only run in training, with the reason."""
        if not has_unused_parameters(self.graph):
            return {}
        return read_in_training_only(couple_graph(self.graph), self.record(self.model, training=True)[0])

    def couple(
        self, protect: Sequence[str] = (), vetoes: Mapping[str, str] | None = None, axes: str = "heads"
    ) -> Groups:
        """Find which dims share an axis; see `secateur.coupling.couple_graph`."""
        return couple_graph(self.graph, protect, {**self.training_only, **(vetoes or {})}, axes)


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
