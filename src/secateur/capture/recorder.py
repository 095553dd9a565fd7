"""The recorder: every operator that is dispatched while it is entered, as data."""

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor

from secateur.capture.inputs import map_inputs
from secateur.capture.operators import (
    is_mutable,
    is_pointwise,
    is_recorded,
    operator_name,
    schema_arguments,
)
from secateur.capture.runner import Runner
from secateur.capture.shortcuts import run
from secateur.capture.unwrap import modules_in_python
from secateur.capture.walk import walk_modules, walk_tensors
from secateur.graph.node import Graph, Node, Ref, Value

_TORCH_FOLDER = str(Path(torch.__file__).parent) + "/"
_OWN_FOLDER = str(Path(__file__).parents[1]) + "/"


class Recorder(Runner):
    """Records every dispatched operator call; also keeps the stack of running modules.

    An operator that runs Python of the model (`cond`, `flex_attention`) is one node: its inside is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.tensors: dict[str, int] = {}
        self.inputs: list[int] = []
        self._index_of: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self.made: list[ref[Tensor]] = []
        self._stack: list[str] = []
        self._files: dict[CodeType, str] = {}
        self._mutating: set[int] = set()
        self._by_memory: dict[tuple[Any, ...], int] = {}
        self._looked_at = 0
        self.has_written = False
        for kind, name, tensor in walk_tensors(model):
            known = self._index_of.get(id(tensor))
            self.tensors[name] = self._add(tensor, kind) if known is None else known

    def _add(self, tensor: Tensor, kind: str) -> int:
        self.values.append(Value(tuple(int(size) for size in tensor.shape), _text(tensor.dtype), kind))
        self._index_of[id(tensor)] = len(self.values) - 1
        self._keep(tensor)
        return len(self.values) - 1

    def _keep(self, tensor: Tensor) -> None:
        self._alive.append(tensor)
        if isinstance(tensor, FakeTensor):
            self.made.append(ref(tensor))

    def add_inputs(self, inputs: Any) -> None:
        """Register the tensors of the call as inputs of the model."""
        map_inputs(inputs, self._add_input)

    def _add_input(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._index_of:
            self.inputs.append(self._add(tensor, "input"))
        return tensor

    def enter(self, name: str) -> None:
        """A module starts to run."""
        self._stack.append(name)

    def leave(self) -> None:
        """The module that started last ends."""
        self._stack.pop()

    @contextmanager
    def module_stack(self) -> Iterator[None]:
        """Follow which modules run, by hooks on our own copy."""
        handles = []
        for name, module in modules_in_python(self.model):
            handles.append(module.register_forward_pre_hook(lambda *_, n=name: self.enter(n)))
            handles.append(module.register_forward_hook(lambda *_: self.leave(), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and write it down."""
        kwargs = kwargs or {}
        if not is_recorded(func):
            return self._alias(run(func, args, kwargs), args)
        named = {name: self._argument(value) for name, value in schema_arguments(func, args, kwargs)}
        self._note_written(func, named)
        output = self._run(func, args, kwargs)
        if is_mutable(func):
            self._mutating.add(len(self.nodes))
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        flat = [part for item in outputs for part in (item if isinstance(item, (tuple, list)) else (item,))]
        self.nodes.append(
            Node(
                index=len(self.nodes),
                op=operator_name(func),
                overload=getattr(func, "_overloadname", ""),
                args=named,
                outputs=tuple(
                    Ref(self._add(item, "node")) if isinstance(item, Tensor) else None for item in flat
                ),
                modules=tuple(self._stack),
                source=self._source(),
                is_pointwise=is_pointwise(func),
            )
        )
        self.count += 1
        return output

    def _note_written(self, func: Any, named: dict[str, Any]) -> None:
        """Whether an operator writes into a parameter or a buffer."""
        first = next(iter(named.values()), None)
        writes = not isinstance(func, HigherOrderOperator) and is_mutable(func)
        if writes and isinstance(first, Ref):
            self.has_written |= self.values[first.value].kind in ("parameter", "buffer")

    def _alias(self, output: Any, args: Sequence[Any]) -> Any:
        """Know the result of an operator that is not recorded, a tensor, as the value that it shows."""
        if isinstance(output, Tensor) and id(args[0]) in self._index_of:
            self._index_of[id(output)] = self._index_of[id(args[0])]
            self._keep(output)
        return output

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            index = self._index_of.get(id(value))
            if index is None:
                index = self._index_by_memory(value)
            return Ref(self._add(value, "constant") if index is None else index)
        if isinstance(value, (list, tuple)):
            return tuple(self._argument(item) for item in value)
        if isinstance(value, (bool, int, float, str, complex, type(None))):
            return value
        if isinstance(value, torch.SymInt):
            return int(value)
        if callable(value):
            return type(value).__name__
        return _text(value)

    def _index_by_memory(self, tensor: Tensor) -> int | None:
        """The value that a tensor shows which no operator made, such as the `data` of a parameter."""
        for known in self._alive[self._looked_at :]:
            if (place := _memory(known)) is not None:
                self._by_memory[place] = self._index_of[id(known)]
        self._looked_at = len(self._alive)
        place = _memory(tensor)
        found = None if place is None else self._by_memory.get(place)
        if found is not None:
            self._index_of[id(tensor)] = found
            self._keep(tensor)
        return found

    def _source(self) -> str:
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            file = self._files.get(code)
            if file is None:
                file = self._files[code] = _file_of_user(code.co_filename)
            if file:
                return f"{file}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return ""

    def finish(self, outputs: Sequence[Tensor], substrate: str, state: Collection[str] = ()) -> Graph:
        """Close the record and let go of its tensors."""
        graph = Graph(
            nodes=tuple(self.nodes),
            values=tuple(self.values),
            tensors=self.tensors,
            inputs=tuple(self.inputs),
            outputs=tuple(self._index_of[id(output)] for output in outputs if id(output) in self._index_of),
            substrate=substrate,
            state=frozenset(state),
            module_types={name: _names_of(type(module)) for name, module in walk_modules(self.model)},
            unused=self._unused(outputs),
        )
        self._alive.clear()
        return graph

    def _unused(self, outputs: Sequence[Tensor]) -> frozenset[int]:
        """The nodes whose results are no output, held by nobody, and read by such nodes alone."""
        seen = {self._index_of.get(id(output)) for output in outputs}
        seen.update(self._index_of[id(self._alive[at])] for at in held_elsewhere(self._alive))
        unused: set[int] = set()
        for node in reversed(self.nodes):
            if node.index in self._mutating or not node.makes or not seen.isdisjoint(node.makes):
                seen.update(node.reads)
            else:
                unused.add(node.index)
        return frozenset(unused)


def _file_of_user(name: str) -> str:
    """The file of some code, with its folder; empty for PyTorch's, Python's and ours."""
    if name.startswith((_TORCH_FOLDER, _OWN_FOLDER, "<frozen")) or "contextlib" in name:
        return ""
    return "/".join(Path(name).parts[-2:])


def held_elsewhere(tensors: Sequence[Tensor]) -> Iterator[int]:
    """The places of those tensors of a list that something else holds, too.

    Example:
        >>> kept = torch.zeros(1)
        >>> list(held_elsewhere([torch.zeros(1), kept]))
        [1]
    """
    alone = [object()]
    fewest = sys.getrefcount(alone[0]) - 1  # the call itself holds what it counts
    counts = Counter(map(id, tensors))
    for at in range(len(tensors)):
        if sys.getrefcount(tensors[at]) - counts[id(tensors[at])] > fewest:
            yield at


def _names_of(kind: type) -> tuple[str, ...]:
    """The names of a class and of those that it is made of."""
    return tuple([one.__name__ for one in kind.__mro__])


def _memory(tensor: Tensor) -> tuple[Any, ...] | None:
    """Which numbers of which memory a tensor shows; None if it has no memory of its own."""
    if tensor.layout != torch.strided or tensor.is_quantized or not tensor.numel():
        return None
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def _text(value: Any) -> str:
    return str(value).removeprefix("torch.")
