"""Layers that are linear in their input: what the arguments of a call are, and where its channels lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.coupling.rule import traits_of
from secateur.graph.node import Graph, Node, Ref, first_operand
from secateur.graph.trait import Trait


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer that is linear in its input.

    Attributes:
        node: The call.
        input: The value that it reads.
        weight: The value of its weight; of a parameter that is turned round first (`x @ w.T`) as it is held.
        is_held: The weight is a parameter, not computed from others (by a mask, a weight norm).
        turned: The calls that turn it round.
        bias: The value of its bias, a parameter; None if it has none.
        spatial: How many spatial dims it slides over; 0 for a linear layer.
        is_transposed: A transposed convolution.
        inputs_first: The weight as it is held is laid out (inputs, outputs), in a linear layer.
        name: The module that holds the weight; of a computed weight the one that makes the call.
    """

    node: Node
    input: int
    weight: int
    is_held: bool
    turned: tuple[Node, ...]
    bias: int | None
    spatial: int
    is_transposed: bool
    inputs_first: bool
    name: str

    @property
    def channels_at(self) -> int:
        """Where the channels of input and output lie, counted from the right."""
        return -1 - self.spatial

    @property
    def arguments(self) -> tuple[str, str]:
        """What input and weight are called in the call."""
        found = layer_operands(self.node)
        assert found is not None, "a layer was made of it"
        return found[:2]

    @property
    def is_product(self) -> bool:
        """Whether the call is a matrix product, whose second factor is laid out (inputs, outputs)."""
        return self.arguments[1] != "weight"

    @property
    def output(self) -> int:
        """The value that it makes."""
        output = self.node.outputs[0]
        assert output is not None, "a layer returns a tensor"
        return output.value


def layer_operands(node: Node) -> tuple[str, str, str] | None:
    """What input, weight and bias of a layer are called; the bias may be missing from the call.

    A layer with a `weight` calls them so. In a matrix product the weight is the second factor, and what is
    added to it comes first.

    Example:
        >>> args = {"self": Ref(0), "mat1": Ref(1), "mat2": Ref(2)}
        >>> layer_operands(Node(0, "aten.addmm", "default", args, ()))
        ('mat1', 'mat2', 'self')
    """
    if "weight" in node.args:
        names = ("input", "weight", "bias")
    elif "mat1" in node.args:
        names = ("mat1", "mat2", "self")
    else:
        names = ("self", "mat2" if "mat2" in node.args else "other", "")
    held = (node.args.get(name) for name in names[:2])
    return names if all(isinstance(ref, Ref) for ref in held) else None


def layer_of(graph: Graph, node: Node) -> LayerCall | None:
    """The layer that a node calls; None if it is none."""
    names = layer_operands(node) if Trait.LAYER in traits_of(node) else None
    if names is None:
        return None
    found, given, bias = (node.args.get(name) for name in names)
    assert isinstance(found, Ref), "layer_operands says so"
    assert isinstance(given, Ref), "layer_operands says so"
    weight, turned = _unturned(graph, given.value)
    rank = len(graph.values[weight].shape)
    is_held, is_product = weight in graph.names, names[1] != "weight"
    if is_product and names[2] != "self" and not (is_held and rank == 2):
        return None  # a product of two activations, or of heads
    if node.args.get("alpha", 1) != 1 or node.args.get("beta", 1) != 1:
        return None
    name = graph.names[weight][0].rpartition(".")[0] or graph.names[weight][0] if is_held else ""
    return LayerCall(
        node=node,
        input=found.value,
        weight=weight,
        is_held=is_held,
        turned=turned,
        bias=bias.value if isinstance(bias, Ref) and bias.value in graph.names else None,
        spatial=rank - 2,
        is_transposed=is_transposed(node.args),
        inputs_first=is_product != (len(turned) % 2 == 1),
        name=name or next(iter(node.modules[::-1]), "") or str(node),
    )


_TURNS = ("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint", "aten.transpose", "aten.swapaxes")


def _unturned(graph: Graph, value: int) -> tuple[int, tuple[Node, ...]]:
    """The parameter that a matrix was before calls turned it round, and those; else the value itself."""
    turned: list[Node] = []
    held = value
    while held not in graph.names:
        node = graph.maker.get(held)
        source = None if node is None or node.op not in _TURNS else first_operand(node)
        if node is None or source is None or len(graph.values[held].shape) != 2:
            return value, ()
        turned.append(node)
        held = source
    return held, tuple(turned)


def is_transposed(args: Mapping[str, Any]) -> bool:
    """Whether a convolution is a transposed one: its operator says so, or an argument."""
    return args.get("transposed", "output_padding" in args) is True
