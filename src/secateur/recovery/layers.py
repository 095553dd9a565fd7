"""Layers that are linear in their input: what they are called with, and what comes right behind them.

A step that improves such a layer needs to know where a constant can go (its bias, or the running mean of the
batch norm that alone reads it), and what its output is added to before anything but a scale happens to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.graph.axes import leaves
from secateur.graph.node import Graph, Node, Ref
from secateur.recovery.step import Subject

_LAYERS = {"linear", "addmm", "matmul", "mm", "convolution"} | {
    f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)
}

_INPUTS_FIRST: Mapping[str, tuple[str, str, str | None]] = {
    "aten.addmm": ("mat1", "mat2", "self"),
    "aten.matmul": ("self", "other", None),
    "aten.mm": ("self", "mat2", None),
}
"""What input, weight and bias are called where the weight is laid out (inputs, outputs)."""

_SAME_NUMBERS = {
    *("aten.view", "aten._unsafe_view", "aten.reshape", "aten.flatten", "aten.unflatten"),
    *("aten.permute", "aten.transpose", "aten.t", "aten.movedim", "aten.swapaxes"),
    *("aten.squeeze", "aten.unsqueeze", "aten.roll", "aten.slice", "aten.narrow"),
    *("aten.contiguous", "aten.clone", "aten.alias", "aten.dropout", "aten.feature_dropout"),
}
"""Operators (of a model in eval mode) that only move numbers; some of them may be left behind."""


@dataclass(frozen=True)
class Layer:
    """One call of a layer that is linear in its input.

    Attributes:
        node: The call.
        input: The value that it reads.
        weight: The value of its weight.
        is_held: The weight is a parameter, not computed from others (by a mask, a weight norm).
        bias: The value of its bias, a parameter; None if it has none.
        spatial: How many spatial dims it slides over; 0 for a linear layer.
        is_transposed: A transposed convolution.
        inputs_first: The weight is laid out (inputs, outputs), in a linear layer.
        name: The module that holds the weight; of a computed weight the one that makes the call.
    """

    node: Node
    input: int
    weight: int
    is_held: bool
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
        return _INPUTS_FIRST.get(self.node.op, ("input", "weight", "bias"))[:2]

    @property
    def output(self) -> int:
        """The value that it makes."""
        output = self.node.outputs[0]
        assert output is not None, "a layer returns a tensor"
        return output.value


def layer_of(graph: Graph, node: Node) -> Layer | None:
    """The layer that a node calls; None if it is none."""
    names = _INPUTS_FIRST.get(node.op, ("input", "weight", "bias"))
    found, weight, bias = (node.args.get(name or "") for name in names)
    op = node.op.removeprefix("aten.")
    if op not in _LAYERS or not isinstance(found, Ref) or not isinstance(weight, Ref):
        return None
    rank = len(graph.values[weight.value].shape)
    is_held = weight.value in graph.names
    if op in ("matmul", "mm") and not (is_held and rank == 2):  # of two activations, or of heads
        return None
    if op == "addmm" and (node.args["alpha"] != 1 or node.args["beta"] != 1):
        return None
    name = graph.names[weight.value][0].rpartition(".")[0] or graph.names[weight.value][0] if is_held else ""
    return Layer(
        node=node,
        input=found.value,
        weight=weight.value,
        is_held=is_held,
        bias=bias.value if isinstance(bias, Ref) and bias.value in graph.names else None,
        spatial=rank - 2,
        is_transposed=op.startswith("conv_transpose") or node.args.get("transposed") is True,
        inputs_first=node.op in _INPUTS_FIRST,
        name=name or next(iter(node.modules[::-1]), "") or str(node),
    )


def has_lost(subject: Subject, layer: Layer) -> bool:
    """Whether positions that a layer reads are gone."""
    channels = subject.groups.findings.dims[layer.input][layer.channels_at]
    return any(leaf in subject.keep and not subject.keep[leaf].all() for leaf in leaves(channels))


class Readers:
    """What reads a layer's output.

    Args:
        graph: The record.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def only(self, value: int) -> Node | None:
        """The one node that reads a value; None if there are several or none, or the model returns it."""
        readers = self.graph.readers[value]
        return readers[0] if len(readers) == 1 and value not in self.graph.outputs else None

    def norm_behind(self, layer: Layer) -> Node | None:
        """The batch norm of a layer's channels, with statistics that are buffers, which alone reads it."""
        reader = self.only(layer.output)
        if reader is None or not is_batch_norm(self.graph, reader):
            return None
        # Dim 1 is what it normalises; behind a linear layer on tokens that is not the channels.
        return reader if len(self.graph.values[layer.output].shape) + layer.channels_at == 1 else None

    def is_entrywise(self, value: int) -> bool:
        """Whether each entry of a tensor is held, or computed from single entries of others: by a mask, say.

        A cut leaves the other entries as they are then; a weight norm takes others for them.
        """
        node = self.graph.maker.get(value)
        if node is None:
            return True
        is_kept = node.is_pointwise or is_move(node) or node.op == "aten.to"
        return is_kept and all(map(self.is_entrywise, node.reads))

    def path_to_sum(self, layer: Layer) -> tuple[Node, ...]:
        """The calls from a layer to the last addition behind it, each the only reader of the one before.

        On the way the output may be scaled by batch norms and parameters and moved about; nothing else.
        """
        path: list[Node] = []
        value, end = layer.output, 0
        while (reader := self.only(value)) is not None and self._is_passable(reader, value):
            path.append(reader)
            if is_sum(reader):
                end = len(path)
            output = reader.outputs[0]
            assert output is not None, "what passes numbers on returns a tensor"
            value = output.value
        return tuple(path[:end])

    def _is_passable(self, node: Node, value: int) -> bool:
        if len(node.outputs) != 1 or node.outputs[0] is None:
            return False
        if is_sum(node):
            return other_operand(node, value) is not None
        if is_scale(node):
            other = other_operand(node, value)
            return other is not None and other in self.graph.names
        return moved(node) == value and (is_move(node) or is_batch_norm(self.graph, node))


def is_batch_norm(graph: Graph, node: Node) -> bool:
    """Whether a call is a batch norm that uses running statistics which are buffers."""
    if node.op != "aten.batch_norm" or node.args.get("training"):
        return False
    held = (node.args.get("running_mean"), node.args.get("running_var"))
    return all(isinstance(ref, Ref) and ref.value in graph.names for ref in held)


def is_move(node: Node) -> bool:
    """Whether a call only moves numbers about, or leaves some behind."""
    return node.op in _SAME_NUMBERS and moved(node) is not None


def moved(node: Node) -> int | None:
    """The value that a call of one tensor reads first."""
    first = node.args.get("input", node.args.get("self"))
    return first.value if isinstance(first, Ref) else None


def is_sum(node: Node) -> bool:
    """Whether a call adds two tensors."""
    return node.op in ("aten.add", "aten.add_") and node.args.get("alpha", 1) == 1


def is_scale(node: Node) -> bool:
    """Whether a call multiplies two tensors."""
    return node.op in ("aten.mul", "aten.mul_")


def other_operand(node: Node, value: int) -> int | None:
    """The other tensor of a sum or product; None if there is no other."""
    found = [ref.value for ref in (node.args.get("self"), node.args.get("other")) if isinstance(ref, Ref)]
    rest = [one for one in found if one != value]
    return rest[0] if len(found) == 2 and len(rest) == 1 else None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by each of its names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def own_place(readers: Readers, cut: nn.Module, layer: Layer) -> tuple[Tensor, int, str] | None:
    """Where one call of the cut model can hold a constant, if no other call minds.

    Returns:
        The tensor, the sign with which it takes the constant, and how it is called; None if there is none.
    """
    graph, named = readers.graph, tensors_of(cut)
    if layer.bias is not None:
        return named[graph.names[layer.bias][0]], 1, "its bias"
    norm = readers.norm_behind(layer)
    if norm is None:
        return None
    name = graph.names[norm.args["running_mean"].value][0]
    return named[name], -1, name


def constant_place(
    readers: Readers, cut: nn.Module, calls: Sequence[Layer]
) -> tuple[Tensor, int, str] | None:
    """Where calls of the cut model can together hold a constant.

    Args:
        readers: Who reads what.
        cut: The cut model.
        calls: All that the constant is for.

    Returns:
        As `own_place`; None if there is none, the calls do not agree, or anything else uses it.
    """
    places = [own_place(readers, cut, call) for call in calls]
    first = places[0]
    if first is None or any(place is None or place[0] is not first[0] for place in places):
        return None
    nodes = {call.node.index for call in calls}
    nodes |= {norm.index for call in calls if (norm := readers.norm_behind(call)) is not None}
    tensors = readers.graph.tensors
    values = {tensors[name] for name, tensor in tensors_of(cut).items() if tensor is first[0]}
    users = {node.index for value in values for node in readers.graph.readers[value]}
    return first if users <= nodes else None
