"""Calls of modules: a record that also knows what went into each module and what came out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from secateur.capture.recorder import Recorder
from secateur.capture.recording import record
from secateur.capture.unwrap import modules_in_python
from secateur.graph.node import Graph, Ref


@dataclass(frozen=True)
class Given:
    """An item of an output that is an argument of the call, handed on unchanged.

    Attributes:
        key: The argument, by position or by keyword.
    """

    key: int | str


@dataclass(frozen=True)
class Other:
    """An item of an output that is neither a tensor, nor an argument, nor None.

    Attributes:
        kind: Name of its class.
    """

    kind: str


Key: TypeAlias = int | str | tuple[int | str, int]
"""An argument, by position or by keyword; with a place, one tensor of an argument that is a tuple of them."""

Item: TypeAlias = Ref | Given | Other | None


@dataclass(frozen=True)
class ModuleCall:
    """One run of a module.

    Attributes:
        module: Its qualified name.
        inputs: The tensors among its arguments, and those in tuples and lists of tensors.
        arguments: How many arguments it was given.
        output: What it returned; the items if it was a tuple.
        first: Index of the first node that ran in it.
        end: One beyond the last.
    """

    module: str
    inputs: Mapping[Key, Ref]
    arguments: int
    output: Item | tuple[Item, ...]
    first: int
    end: int


def record_calls(
    model: nn.Module, example_inputs: Any, substrate: str
) -> tuple[Graph, tuple[ModuleCall, ...], Exception | None]:
    """Record a model and the runs of its modules.

    Args:
        model: Any module; a copy of it runs, in eval mode.
        example_inputs: As for `capture`.
        substrate: As for `record`.

    Returns:
        The record, the runs in the order in which they ended, and what the model failed with.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> _, calls, _ = record_calls(model, torch.zeros(1, 3), "fake")
        >>> [(call.module, call.first, call.end) for call in calls]
        [('0', 0, 1), ('1', 1, 2), ('', 0, 2)]
    """
    recorders: list[_CallRecorder] = []

    def make(held: nn.Module) -> Recorder:
        recorders.append(_CallRecorder(held))
        return recorders[-1]

    graph, failure = record(model, example_inputs, substrate, make=make)
    return graph, tuple(recorders[-1].calls), failure


class _CallRecorder(Recorder):
    """A recorder that notes where modules begin and end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.calls: list[ModuleCall] = []
        self._open: list[tuple[dict[int | str, Any], dict[Key, Ref], int]] = []

    @contextmanager
    def module_stack(self) -> Iterator[None]:
        """Follow which modules run, by hooks on our own copy."""
        with super().module_stack():
            handles = []
            for name, module in modules_in_python(self.model):
                handles.append(module.register_forward_pre_hook(self._begin, with_kwargs=True))
                handles.append(
                    module.register_forward_hook(
                        lambda *call, n=name: self._end(n, call[-1]), with_kwargs=True, always_call=True
                    )
                )
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given: dict[int | str, Any] = dict(enumerate(args))
        given.update(kwargs)
        # Which value a tensor is must be asked now: the module may write into it.
        inputs = {key: self._argument(held) for key, held in _tensors(given)}
        self._open.append((given, inputs, len(self.nodes)))

    def _end(self, name: str, output: Any) -> None:
        given, inputs, first = self._open.pop()
        items = tuple(self._item(item, given) for item in output) if type(output) is tuple else None
        found = self._item(output, given) if items is None else items
        self.calls.append(ModuleCall(name, inputs, len(given), found, first, len(self.nodes)))

    def _item(self, item: Any, given: Mapping[int | str, Any]) -> Item:
        if isinstance(item, Tensor):
            return self._argument(item)
        if item is None:
            return None
        key = next((key for key, held in given.items() if held is item), None)
        return Other(type(item).__name__) if key is None else Given(key)


def _tensors(given: Mapping[int | str, Any]) -> Iterator[tuple[Key, Tensor]]:
    for key, held in given.items():
        if isinstance(held, Tensor):
            yield key, held
        elif isinstance(held, (tuple, list)) and all(isinstance(item, Tensor) for item in held):
            yield from (((key, at), item) for at, item in enumerate(held))
