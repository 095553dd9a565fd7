"""Trace: a record in which every integer remembers where it came from.

The model is run once more on fake tensors with `Traced` integers in its modules and configs. Two modes watch:
below, the recorder sees the operators; above, a function mode sees the Python calls around them, with their
integers still traced. An operator's literal is known by its place in the call that passed it, and the call by
the frames that led to it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.capture.opened import opened
from secateur.capture.places import Argument, CodePlace, Stack, current_stack, locate, numbers_in
from secateur.capture.recorder import Recorder
from secateur.capture.recording import record
from secateur.capture.source import SourceMissingError
from secateur.capture.unwrap import modules_in_python
from secateur.graph.node import Graph, Node, Path, literals_in
from secateur.graph.origin import Field, Made, Origin, Size, fields_in

_DEPTH = 3
"""How many objects, tuples and dictionaries deep fields are looked for."""

Equality = tuple[Origin, Origin]


@dataclass(frozen=True, eq=False)
class Site:
    """Where the Python of a model passed a number to PyTorch.

    Attributes:
        stack: The frames that led to the call.
        argument: Which number of the call.
    """

    stack: Stack
    argument: Argument

    @property
    def code(self) -> object:
        """The instruction of which module passes it, and as which number."""
        return self.stack.module, self.stack.frames[-1:], tuple(self.argument.way)


@dataclass(frozen=True)
class Trace:
    """What a traced run found.

    Attributes:
        origins: By node index and argument path: where the integer came from.
        sites: By node index and argument path: the call that passed it.
        equalities: Pairs of terms that the model compared and found equal.
        fields: The number in each field.
        model: The model that ran.
        places: Those that were located already.
    """

    origins: Mapping[tuple[int, Path], Origin]
    sites: Mapping[tuple[int, Path], Site]
    equalities: tuple[Equality, ...]
    fields: Mapping[Field, int]
    model: nn.Module
    places: dict[object, CodePlace] = field(default_factory=dict)

    @property
    def read(self) -> frozenset[Field]:
        """The fields that the run reads."""
        terms = [*self.origins.values(), *(side for pair in self.equalities for side in pair)]
        return frozenset(held for term in terms for held in fields_in(term))

    def place(self, site: Site, outer: int = 0) -> tuple[str, CodePlace]:
        """The module whose code passes a number, and where in it.

        Args:
            site: Where the number was passed.
            outer: Begin with its innermost method, 0, or one further out.

        Raises:
            SourceMissingError: The code cannot be edited; says why.
        """
        if site.stack.module is None:
            raise SourceMissingError("no method of a module passes the number")
        frames = tuple((id(code), at) for code, at in site.stack.frames)  # a loop passes them again and again
        key = (site.stack.module, frames, tuple(site.argument.way), site.argument.count, outer)
        if key not in self.places:
            module = self.model.get_submodule(site.stack.module)
            self.places[key] = locate(module, site.stack, site.argument, outer)
        return site.stack.module, self.places[key]


class Traced(int):
    """An integer that remembers its origin."""

    origin: Origin
    on_equal: Callable[[Equality], None]

    def __new__(cls, value: int, origin: Origin, on_equal: Callable[[Equality], None]) -> "Traced":
        """Wrap a value."""
        made = super().__new__(cls, value)
        made.origin = origin
        made.on_equal = on_equal
        return made

    def __deepcopy__(self, memo: Any) -> "Traced":
        return self

    def __copy__(self) -> "Traced":
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def _made(self, op: str, result: Any, left: Any, right: Any) -> Any:
        if type(result) is not int:
            return result
        return Traced(result, Made(op, origin_of(left), origin_of(right)), self.on_equal)

    def __add__(self, other: Any) -> Any:
        return self._made("+", int.__add__(self, other), self, other)

    def __radd__(self, other: Any) -> Any:
        return self._made("+", int.__radd__(self, other), other, self)

    def __sub__(self, other: Any) -> Any:
        return self._made("-", int.__sub__(self, other), self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._made("-", int.__rsub__(self, other), other, self)

    def __mul__(self, other: Any) -> Any:
        return self._made("*", int.__mul__(self, other), self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._made("*", int.__rmul__(self, other), other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._made("//", int.__floordiv__(self, other), self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._made("//", int.__rfloordiv__(self, other), other, self)

    def __mod__(self, other: Any) -> Any:
        return self._made("%", int.__mod__(self, other), self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._made("%", int.__rmod__(self, other), other, self)

    def __index__(self) -> int:
        return int.__add__(self, 0)

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)  # NotImplemented for a tensor or a float, which then answer themselves
        if same is True and isinstance(other, int) and not isinstance(other, bool):
            self.on_equal((self.origin, origin_of(other)))
        return same

    def __ne__(self, other: object) -> bool:
        same = self.__eq__(other)
        return same if same is NotImplemented else not same

    __hash__ = int.__hash__


def origin_of(number: int) -> Origin:
    """The origin of an integer; its value if it has none."""
    return number.origin if isinstance(number, Traced) else int(number)


def trace(model: nn.Module, example_inputs: Any, graph: Graph) -> Trace | None:
    """Run a model with traced integers.

    Args:
        model: The recorded model; not changed.
        example_inputs: What it was recorded on.
        graph: Its record.

    Returns:
        The origins of its literals; None if the traced run differs from the record.
    """
    recorders: list[_TracingRecorder] = []

    def make(held: nn.Module) -> Recorder:
        recorders.append(_TracingRecorder(held))
        return recorders[-1]

    try:
        traced, failure = record(
            model, example_inputs, graph.substrate, training=graph.training, state=graph.state, make=make
        )
    except (TypeError, ValueError, AttributeError):
        return None  # an attribute refused to be set
    same = [node.op for node in traced.nodes] == [node.op for node in graph.nodes]
    return _gather(recorders[0], graph, model) if failure is None and same else None


def _gather(recorder: "_TracingRecorder", graph: Graph, model: nn.Module) -> Trace:
    origins: dict[tuple[int, Path], Origin] = {}
    sites: dict[tuple[int, Path], Site] = {}
    for node, call in zip(graph.nodes, recorder.calls, strict=True):
        if call is None or (call.is_python and call.nodes > 1):
            continue  # a closed function computes numbers of its own
        for path, place in _places(node, call.numbers).items():
            way, number = call.numbers[place]
            sites[node.index, path] = Site(call.stack, Argument(way, call.count))
            if isinstance(number, int):
                origins[node.index, path] = origin_of(number)
    equalities = tuple(dict.fromkeys(recorder.equalities))
    return Trace(origins, sites, equalities, recorder.fields, model)


def _places(node: Node, numbers: Sequence[tuple[tuple[Any, ...], int | float]]) -> dict[Path, int]:
    """Where the literals of an operator lie among the numbers of its call.

    All of them in a row, as they were passed; else those of each argument in a row, or alone in value.
    """
    plain = [int(number) if isinstance(number, int) else number for _, number in numbers]
    by_argument = [
        [item for item in literals_in(arg, (name,)) if not isinstance(item[1], (bool, str))]
        for name, arg in node.args.items()
    ]
    literals = [item for items in by_argument for item in items]
    if [value for _, value in literals] == plain and all(way[0][1] == 0 for way, _ in numbers):
        return {path: at for at, (path, _) in enumerate(literals)}
    found: dict[Path, int] = {}
    for items in by_argument:
        places = _places_of([value for _, value in items], plain)
        found |= {path: at for (path, _), at in zip(items, places, strict=True) if at is not None}
    return found


def _places_of(values: list[Any], numbers: list[float]) -> list[int | None]:
    """Where the literals of an argument lie among the numbers of the call."""
    width = len(values)
    starts = [at for at in range(len(numbers) - width + 1) if numbers[at : at + width] == values]
    if width > 1 and starts:
        return [starts[0] + index for index in range(width)]
    found: list[int | None] = []
    for value in values:
        places = [at for at, number in enumerate(numbers) if number == value]
        found.append(places[0] if len(places) == 1 else None)
    return found


@dataclass
class _Call:
    stack: Stack
    numbers: list[tuple[tuple[Any, ...], int | float]]
    count: int
    is_python: bool
    nodes: int = 0


class _TracingRecorder(Recorder):
    """A recorder that knows the Python call around each operator."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.calls: list[_Call | None] = []
        self.current: _Call | None = None
        self.equalities: list[Equality] = []
        self.fields = mark_fields(model, self.equalities.append)
        self.names = {id(module): name for name, module in model.named_modules()}

    @contextmanager
    def module_stack(self) -> Iterator[None]:
        """Follow the modules, and the Python calls above the operators."""
        with super().module_stack(), _Calls(self):
            yield

    def index_of(self, tensor: Tensor) -> int | None:
        """The value that a tensor is."""
        return self._index_of.get(id(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        if len(self.calls) < len(self.nodes):
            self.calls.append(self.current)
            if self.current is not None:
                self.current.nodes += 1
        return output


class _Calls(TorchFunctionMode):
    """Sees every Python call of PyTorch, and lets sizes be traced."""

    def __init__(self, recorder: _TracingRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        is_shape = getattr(func, "__self__", None) is torch.Tensor.shape
        if is_shape or func is torch.Tensor.size:
            return self._sizes(args[0], func(*args, **kwargs), *(() if is_shape else args[1:]), **kwargs)
        if func is torch.Tensor.numel:
            return self._numel(args[0], func(*args, **kwargs))
        if name in ("__get__", "__set__"):
            return func(*args, **kwargs)
        stack = current_stack(func, self.recorder.names)
        numbers = list(numbers_in((args, kwargs)))
        call = _Call(stack, numbers, len(args), isinstance(func, FunctionType))
        twin = opened(func)
        if twin is not None:
            with self:
                return twin(*args, **kwargs)
        before, self.recorder.current = self.recorder.current, call
        try:
            return func(*args, **kwargs)
        finally:
            self.recorder.current = before

    def _sizes(self, tensor: Tensor, sizes: Any, dim: int | None = None) -> Any:
        value = self.recorder.index_of(tensor)
        if value is None:
            return sizes
        if dim is not None:
            return self._traced(sizes, value, int(dim) % tensor.dim())
        return torch.Size([self._traced(size, value, at) for at, size in enumerate(sizes)])

    def _numel(self, tensor: Tensor, number: Any) -> Any:
        """The number of elements, as the product of the sizes."""
        value = self.recorder.index_of(tensor)
        sizes: list[Origin] = [] if value is None else [Size(value, dim) for dim in range(tensor.dim())]
        if not sizes or type(number) is not int:
            return number
        return Traced(
            number,
            reduce(lambda left, right: Made("*", left, right), sizes),
            self.recorder.equalities.append,
        )

    def _traced(self, size: Any, value: int, dim: int) -> Any:
        return Traced(size, Size(value, dim), self.recorder.equalities.append) if type(size) is int else size


def mark_fields(model: nn.Module, on_equal: Callable[[Equality], None]) -> dict[Field, int]:
    """Replace the integers that modules and their configs hold by traced ones, in place.

    Objects that modules share are copied for each, as each may come to hold another number.

    Returns:
        The number in each field.
    """
    fields: dict[Field, int] = {}

    def wrap(value: int, field: Field) -> Traced:
        fields[field] = value
        return Traced(value, field, on_equal)

    for name, module in modules_in_python(model):
        for attribute, value in list(vars(module).items()):
            if attribute in _OWN_OF_MODULES:
                continue
            marked = _marked(value, Field(name, (attribute,)), wrap)
            if marked is not value:
                module.__dict__[attribute] = marked
    return fields


_OWN_OF_MODULES = frozenset(vars(nn.Module()))


def _marked(value: Any, field: Field, wrap: Callable[[int, Field], Traced]) -> Any:
    """The value with its integers traced; the same object if it holds none."""
    if type(value) is int:
        return wrap(value, field)
    if len(field.path) > _DEPTH:
        return value
    if type(value) in (tuple, list, torch.Size):
        parts = [_marked(part, _inside(field, at), wrap) for at, part in enumerate(value)]
        return value if all(map(_same, parts, value)) else type(value)(parts)
    if is_plain_object(value):
        changed = {
            name: marked
            for name, part in vars(value).items()
            if (marked := _marked(part, _inside(field, name), wrap)) is not part
        }
        if changed:
            value = copy.copy(value)
            value.__dict__.update(changed)
    return value


def _same(one: Any, two: Any) -> bool:
    return one is two


def _inside(field: Field, step: str | int) -> Field:
    return Field(field.module, (*field.path, step))


def is_plain_object(value: Any) -> bool:
    """Whether a value is an object with attributes of its own, such as a config, and no part of PyTorch."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (nn.Module, Tensor, type))
        and not callable(value)
        and not type(value).__module__.startswith(("torch.", "builtins"))
    )
