"""Replay: a forward pass as a list of calls that can be stopped before any of them.

Recovery improves a network layer by layer, and every layer must see what the improved layers before it
compute. Running the network once for each layer costs the square of its depth. A tape holds the calls of one
run, without their tensors; a replay works it off as far as it is asked to and keeps only what later calls
read. With one replay for each batch, all batches stand at the same layer and every call is made once.
"""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree

from secateur.capture.follower import Step, observe
from secateur.capture.inputs import as_call, cloned
from secateur.capture.operators import schema_arguments
from secateur.capture.randomness import draw, is_seeded, seed_of
from secateur.capture.switches import recording_context
from secateur.errors import PathError
from secateur.graph.node import Graph, Node, Ref


@dataclass(frozen=True)
class TapeEntry:
    """One call on a tape; it belongs to the node of the same index.

    Attributes:
        func: The operator overload.
        leaves: Its arguments, flattened; tensors are references to the values of the record.
        spec: How they were nested.
        outputs: The values that it makes.
        frees: The values that no later call reads.
    """

    func: Any
    leaves: tuple[Any, ...]
    spec: Any
    outputs: tuple[int | None, ...]
    frees: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tape:
    """The calls of one run of a model on inputs of certain sizes.

    Attributes:
        graph: The record that the run was in step with.
        calls: One for each node.
        bytes_before: Before each call, the bytes of the values that it or a later one reads.
        is_general: It serves any inputs of these sizes, as it holds nothing that the run computed.
        written: The model's tensors that calls write into; every replay has its own.
        held: Tensors that the model's Python holds and that calls write into, as they were before the run.
    """

    graph: Graph
    calls: tuple[TapeEntry, ...]
    bytes_before: tuple[int, ...]
    is_general: bool
    written: frozenset[int] = frozenset()
    held: Mapping[int, Tensor] = field(default_factory=dict)


def record_tape(model: nn.Module, inputs: Any, graph: Graph) -> Tape:
    """Run a model once on real tensors and write down its calls.

    Args:
        model: The recorded model or a cut of it; a copy runs, in eval mode.
        inputs: One batch. See `Tape.is_general` for whether the tape serves others.
        graph: The record of the uncut model.

    Raises:
        PathError: The model takes another path than in its record.

    Example:
        >>> import torch
        >>> from secateur.capture.recording import capture
        >>> model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.ones(1, 3)
        >>> tape = record_tape(model, x, capture(model, x))
        >>> replay = Replay(tape, model, x)
        >>> replay.advance(1)
        >>> torch.equal(replay.results[0], model[0](x))
        True
    """
    taper = observe(model, inputs, graph, partial(_Taper, graph), _Taper.__call__, _Taper.alias, _Taper.dense)
    return taper.finish()


class Tapes:
    """The tapes of a model for batches, one for all that are alike where a tape serves them.

    Args:
        model: As for `record_tape`.
        graph: As for `record_tape`.

    Example:
        >>> import torch
        >>> from secateur.capture.recording import capture
        >>> model = nn.Linear(3, 2)
        >>> tapes = Tapes(model, capture(model, torch.ones(1, 3)))
        >>> tapes.of(torch.ones(4, 3)) is tapes.of(torch.zeros(4, 3))
        True
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self._known: dict[Any, Tape] = {}

    def of(self, batch: Any) -> Tape:
        """The tape for a batch.

        Raises:
            PathError: It takes another path than in the record.
        """
        form = _form(batch)
        found = self._known.get(form)
        if found is None:
            found = record_tape(self.model, batch, self.graph)
            if found.is_general:
                self._known[form] = found
        return found


def _form(batch: Any) -> Any:
    """What a tape depends on: shapes, element types and all that is no tensor."""
    leaves, spec = pytree.tree_flatten(batch)
    forms = (
        (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device)
        if isinstance(leaf, Tensor)
        else repr(leaf)
        for leaf in leaves
    )
    return tuple(forms), repr(spec)


class Replay:
    """A run of a tape that has come to some call.

    Args:
        tape: The calls.
        model: Gives the parameters and buffers; they may change on the way.
        inputs: One batch, of the shapes that the tape was made on; not changed.

    Attributes:
        tape: The calls.
        position: Index of the call that comes next.
        values: The values that calls still to come read, and the model's tensors.
        results: What the last call returned, as a list.
    """

    def __init__(self, tape: Tape, model: nn.Module, inputs: Any) -> None:
        self._stand(tape, model, 0, _by_value(tape.graph, cloned(inputs)))

    @classmethod
    def standing_at(
        cls, tape: Tape, model: nn.Module, position: int, values: Mapping[int, Tensor]
    ) -> "Replay":
        """Make a replay that has come to a call already.

        Args:
            tape: The calls.
            model: Gives the parameters and buffers.
            position: Index of the call that comes next.
            values: What that call and later ones read, such as the `values` of another replay; calls that
                write in place write into these.
        """
        replay = cls.__new__(cls)
        replay._stand(tape, model, position, dict(values))
        return replay

    def _stand(self, tape: Tape, model: nn.Module, position: int, values: dict[int, Tensor]) -> None:
        self.tape = tape
        self.position = position
        self.results: list[Any] = []
        self.tensors = {
            value: tensor.detach().clone() if value in tape.written else tensor
            for name, tensor in _named_tensors(model).items()
            if (value := tape.graph.tensors.get(name)) is not None
        }
        self.tensors |= {value: tensor.clone() for value, tensor in tape.held.items()}
        self.values = values

    def __contains__(self, value: int) -> bool:
        """Whether a value is known here."""
        return value in self.values or value in self.tensors

    def __getitem__(self, value: int) -> Tensor:
        """The tensor that a value is."""
        return self.values[value] if value in self.values else self.tensors[value]

    def advance(self, index: int) -> None:
        """Work off all calls before one."""
        with recording_context():
            while self.position < index:
                self.step()

    def step(self) -> None:
        """Work off the next call, in whatever mode the caller has set; `advance` sets that of a record."""
        call = self.tape.calls[self.position]
        self.results = self._run(self.position, {})
        for value, result in zip(call.outputs, self.results, strict=True):
            if value is not None:
                self.values[value] = result
        for value in call.frees:
            self.values.pop(value, None)
        self.position += 1

    def call(self, index: int, instead: Mapping[int, Tensor] | None = None) -> Tensor:
        """What a call computes from the values that are known here, without working it off.

        Args:
            index: The call; it may not write in place.
            instead: Tensors in place of values.
        """
        found: Tensor = self.results_of(index, instead)[0]
        return found

    def results_of(self, index: int, instead: Mapping[int, Tensor] | None = None) -> list[Any]:
        """As `call`, all results."""
        with recording_context():
            return self._run(index, instead or {})

    def _run(self, index: int, instead: Mapping[int, Tensor]) -> list[Any]:
        call = self.tape.calls[index]
        try:
            args, kwargs = self._arguments(call, instead)
            if is_seeded(call.func, args, kwargs):
                return _flat(draw(call.func, args, kwargs, seed_of(self.tape.graph.seed, index)))
            return _flat(call.func(*args, **kwargs))
        except Exception as error:
            raise PathError(
                f"the model cannot be replayed: {type(error).__name__}: {error}",
                [str(self.tape.graph.nodes[index])],
                "its path depends on numbers; protect that part",
            ) from error

    def named(self, index: int, instead: Mapping[int, Tensor] | None = None) -> dict[str, Any]:
        """Every argument of a call by its name in the operator's schema; `instead` as for `call`."""
        call = self.tape.calls[index]
        args, kwargs = self._arguments(call, instead or {})
        return dict(schema_arguments(call.func, args, kwargs))

    def _arguments(self, call: TapeEntry, instead: Mapping[int, Tensor]) -> Any:
        leaves = [
            (instead[leaf.value] if leaf.value in instead else self[leaf.value])
            if isinstance(leaf, Ref)
            else leaf
            for leaf in call.leaves
        ]
        return pytree.tree_unflatten(leaves, call.spec)


class _Taper:
    """Writes calls down while a model runs on inputs; holds no tensor of it alive."""

    def __init__(self, graph: Graph, model: nn.Module, inputs: Any) -> None:
        self.graph = graph
        self.calls: list[TapeEntry] = []
        self.size: dict[int, int] = {}
        self.root: dict[int, int] = {}
        self.held: dict[int, tuple[Tensor, Tensor]] = {}
        self.written: set[int] = set()
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        for name, tensor in _named_tensors(model).items():
            if name in graph.tensors:
                self.know(tensor, graph.tensors[name])
        for value, tensor in _by_value(graph, inputs).items():
            self.know(tensor, value)
            self.size[value] = _size_bytes(tensor)

    def know(self, tensor: Tensor, value: int) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), value)

    def value_of(self, tensor: Tensor) -> int | None:
        held, value = self._known.get(id(tensor), (None, None))
        return value if held is not None and held() is tensor else None

    def alias(self, output: Tensor, source: Any) -> None:
        value = self.value_of(source) if isinstance(source, Tensor) else None
        if value is not None:
            self.know(output, value)

    def dense(self, node: Node) -> None:
        """A call that the run has left out as the numbers lie in a row: one tensor is now the next value."""
        source, made = node.args[next(iter(node.args))], node.outputs[0]
        assert isinstance(source, Ref), "it takes a tensor"
        assert made is not None, "it returns one"
        held = [ref() for ref, value in self._known.values() if value == source.value]
        for tensor in held:
            if tensor is not None:
                self.know(tensor, made.value)
        self.root[made.value] = self.root.get(source.value, source.value)
        leaves, spec = pytree.tree_flatten(((source,), {}))
        self.calls.append(
            TapeEntry(torch.ops.aten.contiguous.default, tuple(leaves), spec, (made.value,), ())
        )

    def __call__(self, step: Step) -> Any:
        leaves, spec = pytree.tree_flatten((tuple(step.args), dict(step.kwargs)))
        taken = tuple(self._taken(leaf) for leaf in leaves)
        memory = {
            leaf.untyped_storage().data_ptr(): value
            for leaf in leaves
            if isinstance(leaf, Tensor) and (value := self.value_of(leaf)) is not None
        }
        self.written.update(self._written_by(step))
        output = step.run()
        results = _flat(output)
        if len(results) != len(step.node.outputs):
            raise PathError(f"another number of results than in its record: {step.node}")
        outputs = tuple(None if ref is None else ref.value for ref in step.node.outputs)
        for value, result in zip(outputs, results, strict=True):
            if value is None or not isinstance(result, Tensor):
                continue
            self.know(result, value)
            source = memory.get(result.untyped_storage().data_ptr())
            if source is None:
                self.size[value] = _size_bytes(result)
            else:
                self.root[value] = self.root.get(source, source)
        self.calls.append(TapeEntry(step.func, taken, spec, outputs, ()))
        return output

    def _taken(self, leaf: Any) -> Any:
        """A reference; a tensor that the model's Python holds is met here first, as it was before the run."""
        if not isinstance(leaf, Tensor):
            return leaf
        value = self.value_of(leaf)
        if value is None:
            value = -1 - len(self.held)
            self.held[value] = leaf, leaf.detach().clone()
            self.know(leaf, value)
        return Ref(value)

    def _written_by(self, step: Step) -> Iterator[int]:
        """The values, or what they are views of, that a call writes into."""
        if isinstance(step.func, HigherOrderOperator) or not step.func._schema.is_mutable:
            return
        named = step.named()
        for argument in step.func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for leaf in pytree.tree_leaves(named.get(argument.name)):
                    value = self.value_of(leaf) if isinstance(leaf, Tensor) else None
                    if value is not None:
                        yield self.root.get(value, value)

    def finish(self) -> Tape:
        """Find out what each call is the last to read, and how much lies between calls."""
        last = dict.fromkeys(self.graph.inputs, -1)
        for index, call in enumerate(self.calls):
            for value in [*call.outputs, *(leaf.value for leaf in call.leaves if isinstance(leaf, Ref))]:
                if value is not None and value >= 0 and value not in self.graph.names:
                    last[value] = index
        frees: dict[int, list[int]] = {}
        for value, index in last.items():
            frees.setdefault(index, []).append(value)
        calls = tuple(
            TapeEntry(
                call.func,
                tuple(map(self._left, call.leaves)),
                call.spec,
                call.outputs,
                tuple(frees.get(index, ())),
            )
            for index, call in enumerate(self.calls)
        )
        return Tape(
            self.graph,
            calls,
            self._bytes(calls, last),
            is_general=self.graph.substrate == "fake"
            and not any(first.numel() for _, first in self.held.values()),  # an empty cache is of no batch
            written=frozenset(self.written & self.graph.names.keys()),
            held={value: first for value, (_, first) in self.held.items() if value in self.written},
        )

    def _left(self, leaf: Any) -> Any:
        """What stays of a reference: a tensor that Python holds, and that no call writes into, as it is."""
        is_constant = isinstance(leaf, Ref) and leaf.value in self.held and leaf.value not in self.written
        return self.held[leaf.value][0] if is_constant else leaf

    def _bytes(self, calls: tuple[TapeEntry, ...], last: Mapping[int, int]) -> tuple[int, ...]:
        until: dict[int, int] = {}
        for value, index in last.items():
            root = self.root.get(value, value)
            until[root] = max(until.get(root, -1), index)
        goes: dict[int, int] = {}
        for root, index in until.items():
            goes[index] = goes.get(index, 0) + self.size.get(root, 0)
        now = sum(self.size.get(value, 0) for value in self.graph.inputs)
        found = [now]
        for index, call in enumerate(calls):
            now += sum(self.size.get(value, 0) for value in call.outputs if value is not None)
            now -= goes.get(index, 0)
            found.append(now)
        return tuple(found)


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _flat(output: Any) -> list[Any]:
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    return [part for item in outputs for part in (item if isinstance(item, (tuple, list)) else (item,))]


def _size_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _by_value(graph: Graph, inputs: Any) -> dict[int, Tensor]:
    """The tensors of the inputs by their values, in the order in which a record numbers them."""
    tensors = [leaf for leaf in pytree.tree_leaves(as_call(inputs)) if isinstance(leaf, Tensor)]
    if len(tensors) != len(graph.inputs):  # on real tensors one that is given twice is one value
        tensors = list({id(tensor): tensor for tensor in tensors}.values())
    if len(tensors) != len(graph.inputs):
        raise PathError(
            f"the inputs hold {len(tensors)} different tensors, {len(graph.inputs)} in the record",
            do="pass inputs like the example inputs",
        )
    return dict(zip(graph.inputs, tensors, strict=True))
