"""Places: where in a record the channels of a layer can be zeroed, and where they are activations."""

from dataclasses import dataclass

from torch import nn

from secateur.capture.calls import ModuleCall
from secateur.errors import RequestError
from secateur.graph.node import Graph, Node, Ref, refs_in

WHERE = ("removed", "output")
"""After the norm that follows the layer, as if the channels were cut; or what the layer itself returns."""

_NORMS = frozenset(f"aten.{name}" for name in ("batch_norm", "instance_norm", "group_norm", "layer_norm"))
_SUMS = frozenset(f"aten.{name}{end}" for name in ("add", "sub", "mul", "div") for end in ("", "_"))


@dataclass(frozen=True)
class Place:
    """Where the channels of a layer are.

    Attributes:
        layer: Qualified name of the module.
        position: Index of the first node after the value is made; a replay forks here.
        value: The value whose channels are zeroed.
        dim: Which of its dims holds the channels.
        size: How many there are.
        activation: The value that they have become after norm, sum and activation.
        scale: Value of the batch-norm scale between, if there is one.
    """

    layer: str
    position: int
    value: int
    dim: int
    size: int
    activation: int
    scale: int | None = None


def find_place(
    model: nn.Module, graph: Graph, calls: tuple[ModuleCall, ...], layer: str, where: str = "removed"
) -> Place:
    """Find the channels of a layer.

    Args:
        model: The recorded model.
        graph: Its record.
        calls: The runs of its modules.
        layer: Qualified name of a module that returns one tensor: a convolution, as a rule.
        where: One of `WHERE`.

    Raises:
        RequestError: There is no such module, it runs never or several times, returns no tensor, or nothing
            reads what it returns.
    """
    if where not in WHERE:
        raise RequestError(f"where is '{where}'", do=f"choose one of {', '.join(WHERE)}")
    modules = dict(model.named_modules())
    if layer not in modules:
        near = [
            name for name, held in modules.items() if isinstance(held, (nn.modules.conv._ConvNd, nn.Linear))
        ]
        raise RequestError(
            f"the model has no layer '{layer}'", [f"layers: {', '.join(near)}"], "name one of its layers"
        )
    own = [call for call in calls if call.module == layer]
    if len(own) != 1 or not isinstance(own[0].output, Ref):
        what = f"runs {len(own)} times" if len(own) != 1 else "returns no tensor"
        raise RequestError(
            f"layer {layer} {what}",
            do="choose a layer that runs once in a forward pass and returns one tensor",
        )
    return _Finder(graph).place(modules[layer], own[0], own[0].output.value, where)


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for value in {ref.value for arg in node.args.values() for ref in refs_in(arg)}:
                self.readers.setdefault(value, []).append(node)

    def place(self, module: nn.Module, call: ModuleCall, value: int, where: str) -> Place:
        shape = self.graph.values[value].shape
        dim = len(shape) - 1 if isinstance(module, nn.Linear) or len(shape) < 3 else 1
        position, scale, reader = call.end, None, self._only_reader(value)
        if where == "removed" and reader is not None and reader.op in _NORMS:
            held = reader.args.get("weight")
            scale = held.value if isinstance(held, Ref) and reader.op == "aten.batch_norm" else None
            position, value = reader.index + 1, self._made(reader)
        if value not in self.readers:
            raise RequestError(
                f"nothing reads what layer {call.module} returns", do="choose a layer before the last"
            )
        return Place(call.module, position, value, dim, shape[dim], self._activation(value), scale)

    def _activation(self, value: int) -> int:
        """Go on over norms and sums up to the first other element-wise operator, which is the activation."""
        while (node := self._only_reader(value)) is not None:
            is_norm_or_sum = node.op in _NORMS or node.op in _SUMS
            if not is_norm_or_sum and not node.is_pointwise:
                break
            if node.outputs[0] is None or self._shape(self._made(node)) != self._shape(value):
                break
            value = self._made(node)
            if not is_norm_or_sum:
                break
        return value

    def _only_reader(self, value: int) -> Node | None:
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 else None

    def _shape(self, value: int) -> tuple[int, ...]:
        return self.graph.values[value].shape

    def _made(self, node: Node) -> int:
        ref = node.outputs[0]
        assert ref is not None, "these operators return a tensor"
        return ref.value
