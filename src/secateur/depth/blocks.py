"""Blocks: the modules that add something to the stream they are given, and could as well hand it on.

A module is droppable if, in every call of it,

* it takes a tensor, its stream, and returns it as a tensor, or in a tuple (with joint attention two streams);
* the stream that it returns has the same shape and the same axes (of dims that nothing may cut the size is
  enough: the proof by number follows), and a residual path leads to it;
* nothing else that was computed inside is used outside, and none of its tensors is read outside.

Where droppable modules lie inside each other, the block is the smallest that holds all its additions: a stage
whose additions all lie in droppable modules inside it is none, nor is a module with a list of such modules.
Parts of a block (the attention of a layer that also adds elsewhere) can be dropped, but only if named.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from secateur.capture.calls import Given, Item, Key, ModuleCall, Other
from secateur.coupling import Groups
from secateur.cut.skip import CallForm
from secateur.depth.path import ResidualPath, Streams
from secateur.errors import RequestError
from secateur.graph.axes import Axis, Expr, leaves, parts_of, resolve
from secateur.graph.node import Graph, Node, Ref, first_operand

_CONTAINERS = {"Sequential", "ModuleList", "ModuleDict"}
_STAYS = {"aten.to", "aten._to_copy"}


@dataclass(frozen=True)
class Block:
    """A module that may be dropped.

    Attributes:
        name: Its qualified name.
        form: How it is called.
        nodes: The operators that run in it, by index.
        adds: By index of each node that adds to the stream: the argument that is the stream.
        changes: The same for normalisations and activations that go with it although they act on the stream.
        casts: The same for changes of precision.
        params: Its parameters; those that other modules hold too are not counted.
    """

    name: str
    form: CallForm = field(repr=False)
    nodes: frozenset[int] = field(repr=False)
    adds: Mapping[int, str] = field(repr=False)
    changes: Mapping[int, str] = field(repr=False)
    casts: Mapping[int, str] = field(repr=False)
    params: int

    def fits(self, pattern: str) -> bool:
        """Whether a pattern fits the block's name, or that of a module around it."""
        parts = self.name.split(".")
        names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


@dataclass(frozen=True)
class Found:
    """What was found in a model.

    Attributes:
        blocks: The blocks, in the order of the network.
        droppable: Every droppable module by name: the blocks, their parts, and stages of several blocks.
        reasons: Why other modules of the same classes cannot be dropped, by name.
        unfit: The same for all modules.
    """

    blocks: tuple[Block, ...]
    droppable: Mapping[str, Block]
    reasons: Mapping[str, str]
    unfit: Mapping[str, str]

    def matching(self, patterns: Sequence[str]) -> tuple[Block, ...]:
        """The droppable modules that fit one of some patterns; of nested ones the outermost.

        Raises:
            RequestError: A pattern fits none; with the reasons of the modules that it does fit.
        """
        names: set[str] = set()
        for pattern in patterns:
            hits = fnmatch.filter(self.droppable, pattern)
            if not hits:
                refused = fnmatch.filter(self.unfit, pattern)
                raise RequestError(
                    f"blocks='{pattern}' fits no module that can be dropped",
                    [f"{name}: {self.unfit[name]}" for name in refused]
                    or [f"blocks: {', '.join(block.name for block in self.blocks) or 'none'}"],
                    "name a residual block whose input and output have the same axes",
                )
            names.update(hits)
        outermost = [name for name in names if not any(_lies_in(name, other) for other in names)]
        order = list(self.droppable)
        return tuple(self.droppable[name] for name in sorted(outermost, key=order.index))


def _lies_in(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def find_blocks(graph: Graph, calls: Sequence[ModuleCall], groups: Groups) -> Found:
    """Find the blocks of a recorded model.

    Args:
        graph: The record.
        calls: The runs of its modules.
        groups: Its groups.
    """
    finder = _Finder(graph, groups)
    by_module: dict[str, list[ModuleCall]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: (call.first, -call.end)):
        if call.module:
            by_module[call.module].append(call)
    droppable: dict[str, Block] = {}
    reasons: dict[str, str] = {}
    for name, own in by_module.items():
        if not any(_lies_in(other, name) for other in by_module):
            continue  # a single layer adds nothing to its input
        try:
            droppable[name] = finder.block(name, own)
        except _UnfitError as unfit:
            reasons[name] = str(unfit)
    blocks = _smallest(droppable, graph.module_types)
    return Found(tuple(blocks), droppable, _listed(reasons, blocks, graph.module_types), reasons)


def _listed(
    reasons: Mapping[str, str], blocks: Sequence[Block], types: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The reasons worth a line: of modules of the blocks' classes; without blocks, of all in lists."""
    kinds = {types[block.name][0] for block in blocks}
    if kinds:
        return {name: why for name, why in reasons.items() if types[name][0] in kinds}
    return {name: why for name, why in reasons.items() if _parent_is_container(name, types)} or dict(reasons)


def _smallest(droppable: Mapping[str, Block], types: Mapping[str, Sequence[str]]) -> list[Block]:
    """The droppable modules that are no stages of others, the outermost of these."""
    wholes: list[Block] = []
    for name, block in droppable.items():
        parts = [part for part in droppable.values() if _lies_in(part.name, name)]
        inner = frozenset().union(*(part.adds.keys() for part in parts))
        is_stage = inner >= block.adds.keys() or any(_parent_is_container(part.name, types) for part in parts)
        if not is_stage and not any(_lies_in(name, whole.name) for whole in wholes):
            wholes.append(block)
    return wholes


def _parent_is_container(name: str, types: Mapping[str, Sequence[str]]) -> bool:
    return not _CONTAINERS.isdisjoint(types.get(name.rpartition(".")[0], ()))


class _UnfitError(Exception):
    """Why a module cannot be dropped."""


@dataclass(frozen=True)
class _Stream:
    """A stream that a block adds to.

    Attributes:
        key: The argument that holds it.
        result: The value that comes out.
        path: The way between.
    """

    key: Key
    result: int
    path: ResidualPath


class _Finder:
    """Tells of each module whether it can be dropped, or why not."""

    def __init__(self, graph: Graph, groups: Groups) -> None:
        self.graph = graph
        self.groups = groups
        self.streams = Streams(graph)

    def block(self, name: str, calls: Sequence[ModuleCall]) -> Block:
        """The module as a block.

        Raises:
            _UnfitError: It is none.
        """
        forms: set[CallForm] = set()
        adds: dict[int, str] = {}
        changes: dict[int, str] = {}
        casts: dict[int, str] = {}
        returned: set[int] = set()
        for call in calls:
            streams = self._streams_of(call)
            forms.add(self._form_of(call, {stream.result: stream.key for stream in streams}))
            for stream in streams:
                returned.add(stream.result)
                adds.update(stream.path.adds)
                changes.update(stream.path.changes)
                casts.update(stream.path.casts)
        if len(forms) > 1:
            raise _UnfitError("it is called in several forms")
        nodes = frozenset(index for call in calls for index in range(call.first, call.end))
        own = {
            value: names
            for value, names in self.graph.names.items()
            if all(_lies_in(held, name) for held in names)
        }
        self._require_closed(nodes, returned, own)
        values = [self.graph.values[value] for value in own]
        params = sum(prod(held.shape) for held in values if held.kind == "parameter")
        return Block(name, forms.pop(), nodes, adds, changes, casts, params)

    def _streams_of(self, call: ModuleCall) -> list["_Stream"]:
        """The streams that a call of a module takes and returns: as a rule one, in joint attention two."""
        if not call.inputs:
            raise _UnfitError("it takes no tensor")
        items = call.output if isinstance(call.output, tuple) else (call.output,)
        made = [item.value for item in items if isinstance(item, Ref) and self._is_made(item, call)]
        found: dict[Key, _Stream] = {}
        why: _UnfitError | None = None
        for result in dict.fromkeys(made):
            if found and not self._is_read_behind(result, call):
                continue  # a second output that nobody reads may be anything
            for key, stream in call.inputs.items():
                if key in found:
                    continue
                try:
                    found[key] = self._stream(call, key, stream.value, result)
                    break
                except _UnfitError as unfit:
                    why = why or unfit
        if not found:
            raise why or _UnfitError("it does not return a tensor that it computes, or a tuple with one")
        return list(found.values())

    def _stream(self, call: ModuleCall, key: Key, value: int, result: int) -> "_Stream":
        self._require_same_shape(value, result)
        path = self.streams.path(self.graph.nodes[call.first : call.end], value, result)
        if path is None:
            raise _UnfitError("what it returns is not its input plus something")
        self._require_same_axes(value, result)
        return _Stream(key, result, path)

    def _form_of(self, call: ModuleCall, keys: Mapping[int, Key]) -> CallForm:
        """How a module was called and what it returned, given the argument behind each computed stream."""
        takes = next(iter(keys.values()))
        items: tuple[Key | None, ...] | None = None
        if isinstance(call.output, tuple):
            items = tuple(self._item(item, call, keys) for item in call.output)
        packed = takes[0] if isinstance(takes, tuple) else None
        if packed is not None and items == tuple(key for key in call.inputs if _pack_of(key) == packed):
            takes, items = packed, None  # the streams come and go in one tuple, which is handed on
        if isinstance(takes, tuple) or any(isinstance(key, tuple) for key in items or ()):
            raise _UnfitError("it takes several tensors in one argument and returns them otherwise")
        returns = None if items is None else tuple(key for key in items if not isinstance(key, tuple))
        return CallForm(takes, returns, call.arguments == 1 and takes == 0)

    def _item(self, item: Item, call: ModuleCall, keys: Mapping[int, Key]) -> Key | None:
        """The argument that an item of the returned tuple is; None for None and what is computed inside."""
        if isinstance(item, Given):
            return item.key
        if isinstance(item, Other):
            raise _UnfitError(f"it also returns an object of class {item.kind}")
        if item is None:
            return None
        if item.value in keys:
            return keys[item.value]
        key = next((key for key, ref in call.inputs.items() if ref == item), None)
        if key is None and not self._is_made(item, call):
            raise _UnfitError("it also returns a tensor that it holds")
        return key

    def _is_made(self, item: Ref, call: ModuleCall) -> bool:
        """Whether a value is computed in a call."""
        node = self.graph.maker.get(item.value)
        return node is not None and call.first <= node.index < call.end

    def _is_read_behind(self, value: int, call: ModuleCall) -> bool:
        inside = range(call.first, call.end)
        readers = self.graph.readers[value]
        return value in self.graph.outputs or any(node.index not in inside for node in readers)

    def _require_same_shape(self, stream: int, result: int) -> None:
        before, after = self.graph.values[stream], self.graph.values[result]
        if before.shape != after.shape:
            raise _UnfitError(f"it takes {list(before.shape)} and returns {list(after.shape)}")
        if before.dtype != after.dtype:
            raise _UnfitError(f"it takes {before.dtype} and returns {after.dtype}")

    def _require_same_axes(self, stream: int, result: int) -> None:
        pairs = zip(self.groups.findings.dims[stream], self.groups.findings.dims[result], strict=True)
        for at, (one, two) in enumerate(pairs):
            if not (_is_same(one, two) or (_is_fixed(one) and _is_fixed(two))):
                raise _UnfitError(f"dim {at} of what it returns has other axes than its input")

    def _require_closed(
        self, nodes: frozenset[int], returned: set[int], own: Mapping[int, Sequence[str]]
    ) -> None:
        """Nothing that is computed or held inside may be used outside."""
        for index in sorted(nodes):
            node = self.graph.nodes[index]
            for ref in node.outputs:
                if ref is None or ref.value in returned:
                    continue
                if ref.value in self.graph.outputs:
                    raise _UnfitError(f"the model returns what it computes: {node}")
                reader = self._reader(ref.value, nodes)
                if reader is not None and not self._is_from_outside(ref.value, nodes):
                    raise _UnfitError(f"what {node} computes is used outside: {reader}")
        for value, names in own.items():
            reader = self._reader(value, nodes)
            if reader is not None:
                raise _UnfitError(f"its {names[0]} is read outside: {reader}")

    def _is_from_outside(self, value: int, nodes: frozenset[int]) -> bool:
        """Whether a value is one from outside, brought to the device and the precision that it has."""
        while (node := self.graph.maker.get(value)) is not None and node.index in nodes:
            held = first_operand(node)
            if held is None or node.op not in _STAYS:
                return False
            before, after = self.graph.values[held], self.graph.values[value]
            if (before.shape, before.dtype) != (after.shape, after.dtype):
                return False
            value = held
        return True

    def _reader(self, value: int, nodes: frozenset[int]) -> Node | None:
        """A node outside that reads a value."""
        return next((node for node in self.graph.readers[value] if node.index not in nodes), None)


def _pack_of(key: Key) -> int | str | None:
    """The argument that a tensor lies in, beside others."""
    return key[0] if isinstance(key, tuple) else None


def _is_fixed(expr: Expr) -> bool:
    """Whether nothing may be cut of a dim: batch and space, after reshapes that could not be followed."""
    return all(leaf.reason is not None for leaf in leaves(expr))


def _is_same(one: Expr, two: Expr) -> bool:
    """Whether two dims are one expression."""
    one, two = resolve(one), resolve(two)
    if one is two:
        return True
    if isinstance(one, Axis) or isinstance(two, Axis) or type(one) is not type(two):
        return False
    parts = parts_of(one), parts_of(two)
    return len(parts[0]) == len(parts[1]) and all(map(_is_same, *parts))
