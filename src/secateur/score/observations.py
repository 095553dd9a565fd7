"""Observations: what data say of activations, each kind of evidence a module of `evidence/`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from secateur.capture.batches import Samples
from secateur.graph.node import Graph
from secateur.registry import Registry
from secateur.score.activations import Place, gather
from secateur.score.values import ReadValue

T = TypeVar("T")


class Evidence(ABC, Generic[T]):
    """One kind of evidence; a criterion names it with `of=`.

    Attributes:
        reads: One item of it in words, for messages.
    """

    reads: str

    def watches(self, value: ReadValue) -> bool:
        """Whether an activation says anything of this kind."""
        return True

    @abstractmethod
    def look(self, tensor: Tensor, value: ReadValue) -> T | None:
        """What one batch says of an activation; None where its numbers are not finite."""

    @abstractmethod
    def add(self, one: T, two: T) -> T:
        """What two batches say together."""

    @abstractmethod
    def show(self, found: T, value: ReadValue) -> Any:
        """What a formula is given: for each channel of the group that the activation belongs to."""

    def gather(
        self, model: nn.Module, graph: Graph, values: Iterable[ReadValue], data: Samples
    ) -> Mapping[Place, T]:
        """Look at all data; in one pass, unless a kind needs more.

        Args:
            model: The recorded model; a copy runs.
            graph: Its record.
            values: The activations that are watched.
            data: Batches.
        """
        return gather(model, graph, values, data, self.look, self.add)


evidence: Registry[Evidence[Any]] = Registry("evidence", "secateur.score.evidence")


class Observations:
    """What each kind of evidence says of a model's activations, gathered for all of them when first asked.

    Args:
        model: The recorded model, with values; not changed.
        graph: Its record.
        values: The activations to watch.
        data: Batches, read once for each kind.
    """

    def __init__(self, model: nn.Module, graph: Graph, values: Iterable[ReadValue], data: Samples) -> None:
        self.model, self.graph, self.values, self.data = model, graph, tuple(values), data
        self._gathered: dict[str, Mapping[Place, Any]] = {}

    def of(self, kind: str, values: Iterable[ReadValue]) -> Sequence[Any]:
        """What one kind of evidence says of some activations; those that it does not watch are left out."""
        held = evidence[kind]
        if kind not in self._gathered:
            watched = [value for value in self.values if held.watches(value)]
            self._gathered[kind] = held.gather(self.model, self.graph, watched, self.data)
        found = self._gathered[kind]
        return [held.show(found[value.value, value.dim], value) for value in values if held.watches(value)]
