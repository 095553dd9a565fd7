"""What the forward of each module could see: its arguments, its results, those of the modules inside it."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.capture.inputs import output_tensors
from secateur.capture.recorder import Recorder
from secateur.capture.recording import record
from secateur.graph.node import Graph


@dataclass(frozen=True)
class Visible:
    """Which values the forward of a module could see.

    Attributes:
        values: Values of the record by the name of the module.
    """

    values: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def around(self, name: str) -> str:
        """The innermost module that ran and is this one or around it."""
        while name and name not in self.values:
            name = name.rpartition(".")[0]
        return name


def find_visible(model: nn.Module, inputs: Any, graph: Graph, state: Collection[str]) -> Visible:
    """Record a model again, with the tensors that go into and come out of its modules.

    Args:
        model: The recorded model; not changed.
        inputs: What it was recorded on.
        graph: Its record.
        state: As for `record`.

    Returns:
        Values of that record; empty where the model runs otherwise now.
    """
    made: list[_Looking] = []

    def make(held: nn.Module) -> Recorder:
        made.append(_Looking(held))
        return made[-1]

    again, failure = record(model, inputs, graph.substrate, state=state, make=make)
    is_same = failure is None and [one.op for one in again.nodes] == [one.op for one in graph.nodes]
    return made[0].visible if is_same and len(again.values) == len(graph.values) else Visible()


class _Looking(Recorder):
    """A recorder that notes what modules are given and give back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.visible = Visible()

    @contextmanager
    def module_stack(self) -> Iterator[None]:
        handles = []
        for name, module in self.model.named_modules():
            hook = self._hook(name)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        try:
            with super().module_stack():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            indices = {
                self._index_of[id(one)]
                for one in output_tensors((args, kwargs, output))
                if id(one) in self._index_of
            }
            self.visible.values[name] |= indices
            if len(self._stack) > 1:
                self.visible.values[self._stack[-2]] |= indices

        return note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self.nodes)
        output = super().__torch_dispatch__(func, types, args, kwargs)
        for node in self.nodes[before:]:
            if node.modules:
                self.visible.values[node.modules[-1]] |= {*node.reads, *node.makes}
        return output
