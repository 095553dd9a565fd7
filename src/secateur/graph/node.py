"""A recorded network as data: operator calls, the values between them, and which value is which tensor."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

Path: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Ref:
    """A tensor argument: the index of a value in `Graph.values`."""

    value: int


@dataclass(frozen=True)
class Value:
    """A tensor that was seen: an input, a parameter, a buffer, a constant or a node's output.

    Attributes:
        shape: Its sizes.
        dtype: Its element type, as PyTorch prints it without the prefix: "float32".
        kind: "input", "parameter", "buffer", "constant" or "node".
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str


@dataclass(frozen=True)
class Node:
    """One call of an operator.

    Attributes:
        index: Position in the record.
        op: The operator's name without its overload, "aten.conv2d"; an in-place variant keeps its "_".
        overload: The overload: "default", "Tensor", ...
        args: Every argument by its name in the operator's schema, defaults filled in; tensors are `Ref`.
        outputs: The values it made, in order; None where an output is no tensor.
        modules: Qualified names of the modules that were running, outermost first.
        source: The line outside of PyTorch that made the call: "resnet.py:93".
        is_pointwise: PyTorch itself tags the operator as element-wise.
    """

    index: int
    op: str
    overload: str
    args: Mapping[str, Any]
    outputs: tuple[Ref | None, ...]
    modules: tuple[str, ...] = ()
    source: str = ""
    is_pointwise: bool = False

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """The values that it takes, nested lists included, each once.

        Example:
            >>> Node(0, "aten.cat", "default", {"tensors": (Ref(3), Ref(1), Ref(3)), "dim": 0}, ()).reads
            (3, 1)
        """
        return tuple(dict.fromkeys(ref.value for arg in self.args.values() for ref in refs_in(arg)))

    @cached_property
    def makes(self) -> tuple[int, ...]:
        """The values that it makes, outputs that are no tensors left out."""
        return tuple(ref.value for ref in self.outputs if ref is not None)

    def argument_of(self, value: int) -> str:
        """The first argument that a value is passed as; empty if it is passed as none."""
        return next((name for name, arg in self.args.items() if Ref(value) in refs_in(arg)), "")

    def __str__(self) -> str:
        where = f" in {self.modules[-1]}" if self.modules and self.modules[-1] else ""
        line = f" at {self.source}" if self.source else ""
        return f"{self.op} (node {self.index}){where}{line}"


@dataclass(frozen=True)
class Graph:
    """The record of one forward pass.

    Attributes:
        nodes: The calls in order.
        values: Every tensor seen; `Ref` indexes it.
        tensors: Value index of each parameter and buffer by its qualified name; tied ones share an index.
        inputs: Value indices of the model's inputs.
        outputs: Value indices of the model's outputs.
        substrate: What the model was run on: "fake" tensors, "symbolic" ones (fake, with numbers as symbols)
            or "real" ones.
        module_types: Class names of each module, most derived first, by its qualified name.
        state: Names of what the model returns for its next call, which is no output: a cache.
        unused: Indices of nodes whose results nobody sees: the model asks for a shape of theirs at most.
        seed: Of the random numbers that were drawn.
        calls: How many calls came before it.
        leaves_traces: The run changed what the model or its code holds, so that a later one may differ.
        training: It is of the training mode.
    """

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    tensors: Mapping[str, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    substrate: str = "fake"
    module_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: frozenset[str] = frozenset()
    unused: frozenset[int] = frozenset()
    seed: int = 0
    calls: int = 0
    leaves_traces: bool = False
    training: bool = False

    @cached_property
    def names(self) -> Mapping[int, tuple[str, ...]]:
        """The names of each value that is a parameter or a buffer."""
        names: dict[int, tuple[str, ...]] = {}
        for name, value in self.tensors.items():
            names[value] = (*names.get(value, ()), name)
        return names

    @cached_property
    def readers(self) -> Mapping[int, tuple[Node, ...]]:
        """The nodes that take each value, in order; none for a value that nobody takes."""
        readers: dict[int, list[Node]] = {value: [] for value in range(len(self.values))}
        for node in self.nodes:
            for value in node.reads:
                readers[value].append(node)
        return {value: tuple(nodes) for value, nodes in readers.items()}

    @cached_property
    def maker(self) -> Mapping[int, Node]:
        """The node that makes each value; inputs, parameters, buffers and constants have none."""
        return {value: node for node in self.nodes for value in node.makes}

    @cached_property
    def from_inputs(self) -> frozenset[int]:
        """The values that an input of the model takes part in, the inputs among them."""
        return self._computed_from(self.inputs)

    @cached_property
    def from_tensors(self) -> frozenset[int]:
        """The values that an input, a parameter or a buffer takes part in: those that are no constants."""
        return self._computed_from((*self.inputs, *self.names))

    def _computed_from(self, values: Iterable[int]) -> frozenset[int]:
        found = set(values)
        for node in self.nodes:
            if not found.isdisjoint(node.reads):
                found.update(node.makes)
        return frozenset(found)

    def __str__(self) -> str:
        return (
            f"graph of {len(self.nodes)} nodes, {len(self.names)} tensors, "
            f"recorded on {self.substrate} tensors"
        )


def first_operand(node: Node) -> int | None:
    """The value that a call takes as `input` or `self`; None if it takes none, or a list.

    Example:
        >>> first_operand(Node(0, "aten.relu", "default", {"self": Ref(4)}, ()))
        4
    """
    first = node.args.get("input", node.args.get("self"))
    return first.value if isinstance(first, Ref) else None


def refs_in(arg: Any) -> Iterator[Ref]:
    """Yield the tensor references of an argument, nested lists included."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, (list, tuple)):
        for item in arg:
            yield from refs_in(item)


def literals_in(arg: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the scalars of an argument with the path to each.

    Example:
        >>> list(literals_in([2, Ref(0), 7], ("size",)))
        [(('size', 0), 2), (('size', 2), 7)]
    """
    if isinstance(arg, (list, tuple)):
        for index, item in enumerate(arg):
            yield from literals_in(item, (*path, index))
    elif isinstance(arg, (bool, int, float, str)):
        yield path, arg


def scalars_in(node: Node) -> dict[Path, Any]:
    """Every scalar of a call by its path."""
    return dict(item for name, arg in node.args.items() for item in literals_in(arg, (name,)))
