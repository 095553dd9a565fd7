"""Layer times: how long each recorded call takes at other widths, measured on this machine.

A call of an operator (a convolution with its shapes, strides and groups) is run alone, on tensors of the
sizes that a cut would leave. Its time is a function of the sizes that can change, such as the channels it
reads and makes. It is measured at the points of a grid, when a prediction first needs them, and interpolated:

    smooth operators (element-wise, norms, pooling)     grid of 1, n/4, n/2, n
    operators that multiply (convolutions, products)    two grids: the ends of the kernel's blocks, and one
                                                        channel more

Kernels work on blocks of b channels, so that the time climbs by stairs: between one more than a block's end
and the next block's end it is interpolated linearly, and both of these lie on curves that are smooth in the
block's number. Where up to two sizes change, the points are those of both grids (bilinear); where more do (a
concatenation), all shrink together and the mean of their shares counts.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from secateur.costs.grid import between, grid
from secateur.costs.memory import shares_memory
from secateur.costs.meter import Kept, Term, item_bytes, leaves_of
from secateur.coupling import Groups
from secateur.graph.axes import Axis, Expr, axes_in, parts_of, resolve
from secateur.graph.axes import Sum as Concatenation
from secateur.graph.keep import count
from secateur.graph.node import Node, Ref

_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
_CACHE_BYTES, _MOST_COPIES = 2**26, 16
_LEAST_PASSES, _MOST_PASSES, _ENOUGH_S = 8, 40, 0.005

Point = tuple[tuple[int, ...], float]
"""Sizes at which a call is measured, and the weight of that time."""


class LayerTable:
    """Measured times of single calls, in milliseconds, by what was called.

    Args:
        entries: Times that are known.
        device: Where calls run.
        channels_last: Whether tensors of four dims lie channels last.
        on_measure: Called after each measurement, with the operator's name.

    Attributes:
        entries: All times so far.
        measured: How many were measured here rather than known.
    """

    def __init__(
        self,
        entries: Mapping[str, float] | None = None,
        *,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        on_measure: Callable[[str], None] = lambda op: None,
    ) -> None:
        self.entries = dict(entries or {})
        self.device = torch.device(device)
        self.channels_last = channels_last
        self.measured = 0
        self._on_measure = on_measure

    def time_ms(self, call: "SizedCall") -> float:
        """The time of a call; measured if it is not known.

        Raises:
            Exception: Whatever the operator raises for these sizes.
        """
        key = call.key(channels_last=self.channels_last)
        if key not in self.entries:
            self.entries[key] = _time(call, self.device, channels_last=self.channels_last)
            self.measured += 1
            self._on_measure(call.op)
        return self.entries[key]


@dataclass(frozen=True)
class SizedCall:
    """A call with all its sizes.

    Attributes:
        op: The operator, "aten.conv2d".
        overload: Its overload.
        args: Its arguments; tensors as shape and type.
    """

    op: str
    overload: str
    args: Mapping[str, Any] = field(repr=False)

    def key(self, *, channels_last: bool) -> str:
        """What identifies the call and the layout of its tensors."""
        text = ", ".join(f"{name}={_text(arg)}" for name, arg in self.args.items() if arg is not None)
        return f"{self.op}.{self.overload}({text})" + (" channels last" if channels_last else "")


@dataclass(frozen=True)
class Blank:
    """A tensor argument of which only the shape and the type count."""

    shape: tuple[int, ...]
    dtype: str


def _text(arg: Any) -> str:
    if isinstance(arg, Blank):
        return f"{arg.dtype}{list(arg.shape)}"
    if isinstance(arg, tuple | list):
        return f"[{', '.join(map(_text, arg))}]"
    return str(arg)


def _time(call: SizedCall, device: torch.device, *, channels_last: bool) -> float:
    """The shortest of several passes, in milliseconds; each meets other tensors, as in a network."""

    def made(arg: Any) -> Any:
        if isinstance(arg, Blank):
            return _tensor(arg, device, channels_last=channels_last)
        return [made(item) for item in arg] if isinstance(arg, tuple | list) else arg

    func = _function(call.op, call.overload)
    size = sum(_bytes(arg) for arg in call.args.values())
    copies = max(1, min(_MOST_COPIES, _CACHE_BYTES // max(size, 1)))
    inputs = [_arguments(func, call.args, made) for _ in range(copies)]

    def run(number: int) -> None:
        positional, named = inputs[number % copies]
        func(*positional, **named)

    return _shortest_ms(run, device)


def _shortest_ms(run: Callable[[int], Any], device: torch.device) -> float:
    """The shortest of several passes, in milliseconds of work; other programs count as little as can be.

    Args:
        run: Makes a pass, given its number.
        device: Where it runs.
    """
    clock = clock_of(device)
    times: list[float] = []
    with torch.inference_mode():
        for number in range(2):
            run(number)
        while len(times) < _LEAST_PASSES or (len(times) < _MOST_PASSES and sum(times) < _ENOUGH_S):
            _wait(device)
            begin = clock()
            run(len(times))
            _wait(device)
            times.append(clock() - begin)
    return 1000 * min(times)


def clock_of(device: torch.device) -> Callable[[], float]:
    """The CPU time of this thread where it does all the work: other programs then do not count."""
    is_fine = time.get_clock_info("thread_time").resolution <= 1e-6
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if is_fine and is_alone else time.perf_counter


def _arguments(
    func: Any, args: Mapping[str, Any], made: Callable[[Any], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, by position and by name."""
    positional, named = [], {}
    for argument in func._schema.arguments:
        if argument.name in args:
            value = made(args[argument.name])
            if argument.kwarg_only:
                named[argument.name] = value
            else:
                positional.append(value)
    return positional, named


def _bytes(arg: Any) -> int:
    if isinstance(arg, Blank):
        return prod(arg.shape) * item_bytes(arg.dtype)
    return sum(map(_bytes, arg)) if isinstance(arg, tuple | list) else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _tensor(blank: Blank, device: torch.device, *, channels_last: bool) -> Tensor:
    dtype: torch.dtype = getattr(torch, blank.dtype)
    value: Any = 0.5 if dtype.is_floating_point or dtype.is_complex else dtype is torch.bool
    made = torch.full(blank.shape, value, dtype=dtype, device=device)
    if channels_last and len(blank.shape) == 4:
        return made.contiguous(memory_format=torch.channels_last)
    return made


def _function(op: str, overload: str) -> Any:
    namespace, _, name = op.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


class LayerTime:
    """The time of one recorded call as a function of the widths.

    Args:
        node: The call.
        groups: The groups of the model.
        table: Where times come from.
        block: Channels that kernels work on at once.
    """

    def __init__(self, node: Node, groups: Groups, table: LayerTable, block: int) -> None:
        self.node = node
        self._groups = groups
        self._table = table
        self._block = block if node.index in groups.findings.macs else 0
        free = {group.axis for group in groups.prunable}
        exprs = {
            _identity(dim): dim for dim in self._dims() if any(leaf in free for leaf in axes_in(resolve(dim)))
        }
        axes = {leaf: leaf for dim in exprs.values() for leaf in axes_in(resolve(dim)) if leaf in free}
        self._by_axis = len(axes) < len(exprs)
        self._variables: list[Expr] = list(axes.values() if self._by_axis else exprs.values())
        self._slots = {key: slot for slot, key in enumerate(exprs)}
        self._known: dict[tuple[int, ...], float] = {}
        self.term = Term(self.at, leaves_of(self._variables))

    def _dims(self) -> Iterator[Expr]:
        for value in self.node.reads:
            yield from self._groups.findings.dims.get(value, ())
        for (index, _), dim in self._literals.items():
            if index == self.node.index:
                yield dim

    @property
    def _literals(self) -> Mapping[tuple[int, Any], Expr]:
        return self._groups.findings.literals

    def at(self, kept: Kept) -> float:
        """Milliseconds when each axis keeps so many positions, unscaled."""
        sizes = tuple(count(variable, kept) for variable in self._variables)
        if sizes not in self._known:
            self._known[sizes] = sum(weight * self._measured(at) for at, weight in self._points(sizes))
        return self._known[sizes]

    def _points(self, sizes: Sequence[int]) -> list[Point]:
        """Where the call is measured for these sizes."""
        wholes = [variable.size for variable in self._variables]
        if len(sizes) <= 2:
            each = [grid(size, whole, self._block) for size, whole in zip(sizes, wholes, strict=True)]
            return [
                (tuple(size for size, _ in corner), prod(weight for _, weight in corner))
                for corner in product(*each)
            ]
        share = sum(size / whole for size, whole in zip(sizes, wholes, strict=True)) / len(sizes)
        return [
            (tuple(max(1, round(at * whole)) for whole in wholes), weight)
            for at, weight in between(share, _SHARES)
        ]

    def _measured(self, sizes: tuple[int, ...]) -> float:
        if self._by_axis:
            kept = {
                axis: size
                for axis, size in zip(self._variables, sizes, strict=True)
                if isinstance(axis, Axis)
            }
            return self._table.time_ms(self._sized(lambda dim: count(dim, kept)))

        def size_of(dim: Expr) -> int:
            slot = self._slots.get(_identity(dim))
            return dim.size if slot is None else sizes[slot]

        return self._table.time_ms(self._sized(size_of))

    def _sized(self, size_of: Callable[[Expr], int]) -> SizedCall:
        """The call with the sizes that each dim then has."""

        def filled(arg: Any, path: tuple[Any, ...]) -> Any:
            if isinstance(arg, Ref):
                value = self._groups.graph.values[arg.value]
                dims = self._groups.findings.dims.get(arg.value)
                shape = value.shape if dims is None else tuple(map(size_of, dims))
                return Blank(shape, value.dtype)
            if isinstance(arg, tuple | list):
                return tuple(filled(item, (*path, position)) for position, item in enumerate(arg))
            dim = self._literals.get((self.node.index, path))
            return arg if dim is None or isinstance(arg, bool) else size_of(dim)

        args = {name: filled(arg, (name,)) for name, arg in self.node.args.items()}
        return SizedCall(self.node.op, self.node.overload, args)


def _identity(expr: Expr) -> object:
    """What two dims have in common that are the same expression of the same axes."""
    expr = resolve(expr)
    if isinstance(expr, Axis):
        return id(expr)
    return (isinstance(expr, Concatenation), *map(_identity, parts_of(expr)))


def layer_times(groups: Groups, table: LayerTable, block: int) -> tuple[list[LayerTime], dict[str, str]]:
    """Make the times of all calls of a record.

    Views take no time worth measuring. A call that cannot be run alone is left out.

    Returns:
        The times, and the calls left out, with the reason.
    """
    found: list[LayerTime] = []
    left_out: dict[str, str] = {}
    for node in groups.graph.nodes:
        if not node.reads or shares_memory(node):
            continue
        layer = LayerTime(node, groups, table, block)
        try:
            layer.at({})
        except Exception as error:  # noqa: BLE001 - an operator may refuse made-up tensors in any way
            left_out[str(node)] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        found.append(layer)
    return found, left_out


def table_to_json(entries: Mapping[str, float], machine: Mapping[str, str]) -> bytes:
    """A table as the text of its file."""
    times = {key: round(value, 6) for key, value in sorted(entries.items())}
    return json.dumps({"machine": dict(machine), "ms": times}, indent=0).encode()


def table_from_json(text: bytes, machine: Mapping[str, str]) -> dict[str, float]:
    """Read a table's file; one that is damaged or of another machine holds nothing."""
    try:
        found = json.loads(text)
        if found["machine"] != dict(machine):
            return {}
        return {str(key): float(value) for key, value in found["ms"].items() if float(value) > 0}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def machine_name(machine: Mapping[str, str]) -> str:
    """A file's name for a machine."""
    return hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()[:16]
