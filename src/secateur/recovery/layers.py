"""What comes right behind a layer that is linear in its input.

A step that improves such a layer needs to know where a constant can go (its bias, or the running mean of the
batch norm that alone reads it), and what its output is added to before anything but a scale happens to it.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.coupling.layers import LayerCall, layer_of
from secateur.coupling.rule import traits_of
from secateur.graph.axes import leaves
from secateur.graph.node import Graph, Node, Ref, first_operand
from secateur.graph.trait import Trait
from secateur.recovery.step import Subject


def has_lost(subject: Subject, layer: LayerCall) -> bool:
    """Whether positions that a layer reads are gone."""
    channels = subject.groups.findings.dims[layer.input][layer.channels_at]
    return subject.kept.cuts(channels)


def is_complex(graph: Graph, layer: LayerCall) -> bool:
    """Whether a layer computes with complex numbers, for which no step has a solution."""
    return any(graph.values[value].dtype.startswith("complex") for value in (layer.input, layer.weight))


def unknown_layers(subject: Subject) -> list[tuple[str, str]]:
    """What weighs removed positions and is no layer that a step knows: name and reason.

    Args:
        subject: The cut model and where it comes from.
    """
    graph, findings, changed = subject.groups.graph, subject.groups.findings, subject.kept.changed
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.index not in findings.macs or layer_of(graph, node) is not None:
            continue
        axes = {
            value: {leaf for dim in findings.dims[value] for leaf in leaves(dim)} & set(changed)
            for value in node.reads
        }
        weights = [value for value in node.reads if value not in graph.from_inputs]
        inputs = [value for value in node.reads if value in graph.from_inputs]
        if any(axes[one] & axes[two] for one in weights for two in inputs):
            name = node.modules[-1] if node.modules and node.modules[-1] else str(node)
            found.setdefault(name, f"{node.op} with a weight is no layer that can be solved for")
    return list(found.items())


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

    def norm_behind(self, layer: LayerCall) -> Node | None:
        """The batch norm of a layer's channels, with statistics that are buffers, which alone reads it."""
        reader = self.only(layer.output)
        if reader is None or not is_batch_norm(self.graph, reader):
            return None
        # Dim 1 is what it normalises; behind a linear layer on tokens that is not the channels.
        return reader if len(self.graph.values[layer.output].shape) + layer.channels_at == 1 else None

    def bias_behind(self, layer: LayerCall) -> tuple[Node, int] | None:
        """The addition of a parameter, one number for each output, which alone reads a layer's output."""
        reader = self.only(layer.output)
        if reader is None or not is_sum(reader) or layer.spatial:
            return None
        other = other_operand(reader, layer.output)
        if other is None or other not in self.graph.names:
            return None
        is_bias = self.graph.values[other].shape == self.graph.values[layer.output].shape[-1:]
        return (reader, other) if is_bias else None

    def is_entrywise(self, value: int) -> bool:
        """Whether each entry of a tensor is held, or computed from single entries of others: by a mask, say.

        A cut leaves the other entries as they are then; a weight norm takes others for them.
        """
        node = self.graph.maker.get(value)
        if node is None:
            return True
        is_kept = Trait.POINTWISE in traits_of(node) or is_move(node)
        return is_kept and all(map(self.is_entrywise, node.reads))

    def path_to_sum(self, layer: LayerCall) -> tuple[Node, ...]:
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
        return first_operand(node) == value and (
            (is_move(node) and not _may_cast(node)) or is_batch_norm(self.graph, node)
        )


def is_batch_norm(graph: Graph, node: Node) -> bool:
    """Whether a call is a batch norm that uses running statistics which are buffers."""
    if Trait.CHANNEL_NORM not in traits_of(node) or node.args.get("training") is not False:
        return False
    held = (node.args.get("running_mean"), node.args.get("running_var"))
    return all(isinstance(ref, Ref) and ref.value in graph.names for ref in held)


def is_move(node: Node) -> bool:
    """Whether a call only moves the numbers of one tensor about, or leaves some behind."""
    return Trait.MOVES in traits_of(node) and first_operand(node) is not None


def _may_cast(node: Node) -> bool:
    """Whether a call may change the element type: places, which are numbered, do not survive that."""
    return not node.args.keys().isdisjoint(("dtype", "other"))


def is_sum(node: Node) -> bool:
    """Whether a call adds two tensors."""
    return Trait.SUMS in traits_of(node) and node.args.get("alpha", 1) == 1


def is_scale(node: Node) -> bool:
    """Whether a call multiplies two tensors."""
    return Trait.MULTIPLIES in traits_of(node)


def other_operand(node: Node, value: int) -> int | None:
    """The other tensor of a sum or product; None if there is no other."""
    found = [ref.value for ref in (node.args.get("self"), node.args.get("other")) if isinstance(ref, Ref)]
    rest = [one for one in found if one != value]
    return rest[0] if len(found) == 2 and len(rest) == 1 else None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by each of its names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def own_place(readers: Readers, cut: nn.Module, layer: LayerCall) -> tuple[Tensor, int, str] | None:
    """Where one call of the cut model can hold a constant, if no other call minds.

    Returns:
        The tensor, the sign with which it takes the constant, and how it is called; None if there is none.
    """
    graph, named = readers.graph, tensors_of(cut)
    if layer.bias is not None:
        return named[graph.names[layer.bias][0]], 1, "its bias"
    added = readers.bias_behind(layer)
    if added is not None:
        return named[graph.names[added[1]][0]], 1, "the bias behind it"
    norm = readers.norm_behind(layer)
    if norm is None:
        return None
    name = graph.names[norm.args["running_mean"].value][0]
    return named[name], -1, name


def constant_place(
    readers: Readers, cut: nn.Module, calls: Sequence[LayerCall]
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
    nodes |= {added[0].index for call in calls if (added := readers.bias_behind(call)) is not None}
    tensors = readers.graph.tensors
    values = {tensors[name] for name, tensor in tensors_of(cut).items() if tensor is first[0]}
    users = {node.index for value in values for node in readers.graph.readers[value]}
    return first if users <= nodes else None
