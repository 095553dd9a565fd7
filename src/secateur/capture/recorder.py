"""The recorder: every operator that a forward pass dispatches, as data.

Substrate (measured over 288 models, docs/decisions/0003-capture.md): a `TorchDispatchMode` under
`torch.inference_mode()`, where composite operators (`linear`, `chunk`, attention) stay whole. Fake tensors
first: no memory, no arithmetic. Real tensors where a model looks at numbers.
"""

import gc
import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.capture.caches import drop_frames, forget, start_afresh
from secateur.capture.copies import copy_module
from secateur.capture.inputs import as_call, map_inputs, require_tensors
from secateur.capture.operators import is_pointwise, is_recorded, operator_name, schema_arguments
from secateur.capture.shortcuts import is_constant, run, storages_written
from secateur.capture.state import find_state
from secateur.errors import CaptureError, RequestError, SecateurError
from secateur.graph.node import Graph, Node, Ref, Value

_LOOKS_AT_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
_TORCH_FOLDER = str(Path(torch.__file__).parent) + "/"
_OWN_FOLDER = str(Path(__file__).parents[1]) + "/"
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
_ATEN = torch.ops.aten


def capture(
    model: nn.Module, example_inputs: Any, substrate: str = "auto", state: Collection[str] | None = None
) -> Graph:
    """Record one forward pass of a copy of the model in eval mode; the model itself is not touched.

    Args:
        model: Any module.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        substrate: "fake" tensors (no memory, no arithmetic), "real" ones, or "auto": fake, and real where
            the model looks at numbers.
        state: Names of what the model returns for its next call only; None to find them.

    Returns:
        The record.

    Raises:
        CaptureError: The model cannot be run on these inputs; the cause is chained.

    Example:
        >>> graph = capture(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3))
        >>> [node.op for node in graph.nodes]
        ['aten.linear', 'aten.relu']
        >>> graph.nodes[0].modules
        ('', '0')
    """
    if substrate not in ("auto", "fake", "real"):
        raise RequestError(f"substrate is '{substrate}'", do="choose 'auto', 'fake' or 'real'")
    failure: Exception | None = None
    attempts = {"auto": ("fake", "symbolic", "real"), "fake": ("fake", "symbolic"), "real": ("real",)}
    for attempt in attempts[substrate]:
        if attempt == "symbolic" and isinstance(failure, DynamicOutputShapeException):
            continue  # a number may stand for a value, not for the size of a recorded tensor
        graph, error = record(model, example_inputs, attempt, state=state)
        if error is None:
            return graph
        if isinstance(error, SecateurError):
            raise error
        if failure is None or not isinstance(error, _LOOKS_AT_NUMBERS):
            failure = error
    assert failure is not None, "every attempt returned or failed"
    raise CaptureError(
        f"the model does not run on the example inputs: {type(failure).__name__}: {failure}",
        [*_shapes_of(example_inputs), *getattr(failure, "__notes__", ())],
        "pass inputs that model(*inputs) accepts in eval mode",
    ) from failure


def _shapes_of(example_inputs: Any) -> list[str]:
    shapes: list[str] = []

    def note(leaf: Tensor) -> Tensor:
        shapes.append(str(list(leaf.shape)))
        return leaf

    map_inputs(example_inputs, note)
    return [f"input shapes: {', '.join(shapes)}"]


def record(
    model: nn.Module,
    example_inputs: Any,
    substrate: str,
    *,
    training: bool = False,
    state: Collection[str] | None = None,
    make: "Callable[[nn.Module], Recorder] | None" = None,
) -> tuple[Graph, Exception | None]:
    """Record as far as the model runs.

    Args:
        model: Any module; a copy of it runs.
        example_inputs: As for `capture`.
        substrate: "fake", "symbolic" (fake, with numbers as symbols) or "real".
        training: Run the copy in training mode; else in eval mode.
        state: Names of what the model returns for its next call only; None to find them.
        make: Makes the recorder; None is a plain one.

    Returns:
        The record, partial if the model failed, and what it failed with.
    """
    start_afresh()
    graph, failure, made = _record(model, example_inputs, substrate, training, make or Recorder, state)
    drop_frames(failure)
    forget(made)
    return graph, failure


def _record(
    model: nn.Module,
    example_inputs: Any,
    substrate: str,
    training: bool,
    make: Callable[[nn.Module], "Recorder"],
    state: Collection[str] | None,
) -> tuple[Graph, Exception | None, list["ref[Tensor]"]]:
    held = shadow(model).train(training)
    recorder = make(held)
    outputs: list[Tensor] = []
    failure: Exception | None = None
    with recording_context(), garbage_waits(), ExitStack() as stack:
        if substrate != "real":
            shape_env = ShapeEnv() if substrate == "symbolic" else None
            fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True, shape_env=shape_env))
            example_inputs = map_inputs(
                example_inputs, lambda leaf: fake.from_tensor(leaf.detach(), static_shapes=True)
            )
        args, kwargs = as_call(example_inputs)
        recorder.add_inputs((args, kwargs))
        try:
            with recorder.module_stack(), recorder:
                output = held(*args, **kwargs)
            state = find_state(held, output, args, kwargs) if state is None else state
            outputs = require_tensors(output, state)
        except Exception as error:  # noqa: BLE001 - a foreign model may raise anything
            failure = error
    return recorder.finish(outputs, substrate, state or ()), failure, recorder.made


def shadow(model: nn.Module) -> nn.Module:
    """Copy the structure and the buffers of a model, which a run may write, and share its parameters."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy_module(model, memo)


class _Switches:
    """Switches of the whole process that are off while some thread records: the last one puts them back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.log = logging.getLogger("torch._subclasses.fake_tensor")
        self.before = (True, False)

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self.before = torch.backends.mha.get_fastpath_enabled(), self.log.disabled
                torch.backends.mha.set_fastpath_enabled(False)
                self.log.disabled = True
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                torch.backends.mha.set_fastpath_enabled(self.before[0])
                self.log.disabled = self.before[1]


_SWITCHES = _Switches()


@contextmanager
def as_written() -> Iterator[None]:
    """Run models in the precision that they hold, and attention without the fused path of `torch.nn`.

    A cut model that does not run is a normal step of the search; PyTorch's log of it stays silent.
    """
    with _SWITCHES, ExitStack() as stack:
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def recording_context() -> Iterator[None]:
    """Keep composite operators whole, and the fused attention path and the caller's autocast off."""
    with as_written(), torch.inference_mode():
        yield


@contextmanager
def garbage_waits() -> Iterator[None]:
    """Collect no garbage meanwhile: a pass over all objects of a process can cost more than a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Recorder(TorchDispatchMode):
    """Records every dispatched operator call; also keeps the stack of running modules.

    An operator that runs Python of the model (`cond`, `flex_attention`) is one node: its inside is not seen.
    """

    supports_higher_order_operators = True

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
        self._external: dict[CodeType, bool] = {}
        self._written: set[int] = set()
        for kind, named in (
            ("parameter", model.named_parameters(remove_duplicate=False)),
            ("buffer", model.named_buffers(remove_duplicate=False)),
        ):
            for name, tensor in named:
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
        for name, module in self.model.named_modules():
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
            return self._alias(func(*args, **kwargs), args)
        named = {name: self._argument(value) for name, value in schema_arguments(func, args, kwargs)}
        output = self._run(func, args, kwargs)
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
        return output

    def _run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run an operator; on small constants with their numbers, so that a model may look at them."""
        if is_constant(func, args, kwargs, self._written):
            with no_dispatch():
                return func(*args, **kwargs)
        self._written |= storages_written(func, args, kwargs)
        return run(func, args, kwargs)

    def _alias(self, output: Any, args: Sequence[Any]) -> Any:
        """Know the result of an operator that is not recorded, a tensor, as the value that it shows."""
        if isinstance(output, Tensor) and id(args[0]) in self._index_of:
            self._index_of[id(output)] = self._index_of[id(args[0])]
            self._keep(output)
        return output

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            index = self._index_of.get(id(value))
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

    def _source(self) -> str:
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            external = self._external.get(code)
            if external is None:
                name = code.co_filename
                external = (
                    not name.startswith((_TORCH_FOLDER, _OWN_FOLDER, "<frozen")) and "contextlib" not in name
                )
                self._external[code] = external
            if external:
                return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{frame.f_lineno}"
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
            module_types={
                name: tuple(kind.__name__ for kind in type(module).__mro__)
                for name, module in self.model.named_modules()
            },
        )
        self._alive.clear()
        return graph


def _text(value: Any) -> str:
    return str(value).removeprefix("torch.")
