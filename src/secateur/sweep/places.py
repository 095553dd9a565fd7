"""Places: where in a record the channels of a layer or a group can be zeroed, and where they act."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from secateur.capture.calls import ModuleCall
from secateur.coupling import Group, couple_graph
from secateur.coupling.layers import layer_of
from secateur.coupling.rule import is_norm_scale, traits_of
from secateur.errors import RequestError
from secateur.graph.axes import leaves
from secateur.graph.node import Graph, Node, Ref
from secateur.graph.trait import Trait
from secateur.score.values import Reading
from secateur.train.features import LAYERS, channel_dim

WHERE = ("removed", "output")
"""After the norm that follows the layer, as if the channels were cut; or what the layer itself returns."""


@dataclass(frozen=True)
class Spot:
    """One value in which channels are zeroed.

    Attributes:
        position: Index of the first node after the value is made.
        value: The value.
        dim: Which of its dims holds the channels.
        where: For each channel its positions in that dim; None if channel c is at c.
    """

    position: int
    value: int
    dim: int
    where: tuple[tuple[int, ...], ...] | None = None

    def positions(self, channels: Sequence[int]) -> list[int]:
        """Where some channels are.

        Example:
            >>> Spot(0, 0, 1, ((0, 1), (2, 3))).positions([1])
            [2, 3]
        """
        if self.where is None:
            return list(channels)
        return [position for channel in channels for position in self.where[channel]]


@dataclass(frozen=True)
class GroupPlace:
    """Where the channels of a group are: in what reads them, after norm and activation.

    Attributes:
        name: The group.
        size: How many channels it has.
        spots: The values, in the order in which they are made; a replay forks at the first.
    """

    name: str
    size: int
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class ChannelPlace:
    """Where the channels of a layer are.

    Attributes:
        layer: Qualified name of the module.
        position: Index of the first node after the value is made; a replay forks here.
        value: The value whose channels are zeroed.
        dim: Which of its dims holds the channels.
        size: How many there are.
        activation: The value that they have become after norm, sum and activation.
        scale: Value of the scale of the norm between, if that takes each channel by itself.
    """

    layer: str
    position: int
    value: int
    dim: int
    size: int
    activation: int
    scale: int | None = None

    @property
    def name(self) -> str:
        """The layer."""
        return self.layer

    @property
    def spots(self) -> tuple[Spot, ...]:
        """The one value."""
        return (Spot(self.position, self.value, self.dim),)


def find_group(reading: Reading, group: Group) -> GroupPlace:
    """Find the channels of a group.

    Zeroed where they are read, after norm and activation, they bring nothing, as if they were cut; but norms
    that take statistics over channels (layer norm) still count them.

    Args:
        reading: Finds activations in the record.
        group: The group.

    Raises:
        RequestError: Nothing reads its channels.
    """
    maker = reading.graph.maker
    spots = sorted(
        (
            Spot(maker[read.value].index + 1, read.value, read.dim, tuple(map(tuple, read.places.tolist())))
            for read in reading.of(group)
        ),
        key=lambda spot: spot.position,
    )
    if not spots:
        raise RequestError(f"nothing reads the channels of group {group.name}", do="choose another group")
    return GroupPlace(group.name, group.size, tuple(spots))


def find_place(
    model: nn.Module, graph: Graph, calls: tuple[ModuleCall, ...], layer: str, where: str = "removed"
) -> ChannelPlace:
    """Find the channels of a layer.

    Args:
        model: The recorded model.
        graph: Its record.
        calls: The runs of its modules.
        layer: Qualified name of a module that returns one tensor: a convolution, as a rule.
        where: One of `WHERE`.

    Raises:
        RequestError: There is no such module, it runs never or several times, returns no tensor, or one whose
            channels are in no one dim, or nothing reads what it returns.
    """
    _require_where(where)
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
    value = own[0].output.value
    dim = _channel_dim(graph, modules[layer], layer, value)
    return _Finder(graph).place(layer, own[0].end, value, dim, where)


def find_end(
    model: nn.Module, graph: Graph, calls: tuple[ModuleCall, ...], node: Node, where: str = "removed"
) -> ChannelPlace:
    """Find the channels that one convolution or linear operator makes.

    Args:
        model: The recorded model.
        graph: Its record.
        calls: The runs of its modules.
        node: The operator; in a module that does more than it, the place is named by its weight.
        where: One of `WHERE`.

    Raises:
        RequestError: As for `find_place`.
    """
    _require_where(where)
    if any(call.module == node.modules[-1] and call.output == node.outputs[0] for call in calls):
        return find_place(model, graph, calls, node.modules[-1], where)
    finder, weight = _Finder(graph), node.args.get("weight")
    value = finder.made(node)
    made = layer_of(graph, node)
    dim = 1 if made is None else made.channels_at % len(graph.values[value].shape)
    names = graph.names.get(weight.value, ()) if isinstance(weight, Ref) else ()
    return finder.place(names[0] if names else str(node), node.index + 1, value, dim, where)


def _require_where(where: str) -> None:
    if where not in WHERE:
        raise RequestError(f"where is '{where}'", do=f"choose one of {', '.join(WHERE)}")


def _channel_dim(graph: Graph, module: nn.Module, layer: str, value: int) -> int:
    """The dim of what a module returns that holds its channels; of what is no layer, the one with a group."""
    shape = graph.values[value].shape
    if len(shape) < 3:
        return len(shape) - 1
    if isinstance(module, nn.modules.conv._ConvNd):
        return 1
    if isinstance(module, LAYERS):
        return channel_dim(module) % len(shape)
    groups = couple_graph(graph)
    dims = groups.findings.dims[value]
    found = [dim for dim, expr in enumerate(dims) if not groups.name_of.keys().isdisjoint(leaves(expr))]
    if len(found) != 1:
        raise RequestError(
            f"layer {layer} returns a tensor of shape {list(shape)}, its dims with channels are {found}",
            do="choose a convolution, a linear layer or a norm",
        )
    return found[0]


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def place(self, layer: str, position: int, value: int, dim: int, where: str) -> ChannelPlace:
        scale, reader = None, self._only_reader(value)
        if where == "removed" and reader is not None and Trait.NORM in traits_of(reader):
            held = reader.args.get("weight")
            scale = held.value if isinstance(held, Ref) and is_norm_scale(reader.op, "weight") else None
            position, value = reader.index + 1, self.made(reader)
        if not self.graph.readers[value]:
            raise RequestError(
                f"nothing reads what layer {layer} returns", do="choose a layer before the last"
            )
        size = self._shape(value)[dim]
        return ChannelPlace(layer, position, value, dim, size, self._activation(value), scale)

    def _activation(self, value: int) -> int:
        """Go on over norms, arithmetic and copies: the first other element-wise one is the activation."""
        while (node := self._only_reader(value)) is not None:
            traits = traits_of(node)
            if not traits & (Trait.NORM | Trait.POINTWISE | Trait.ACTIVATION):
                break
            if node.outputs[0] is None or self._shape(self.made(node)) != self._shape(value):
                break
            value = self.made(node)
            if not traits & (Trait.NORM | Trait.ARITHMETIC | Trait.MOVES):
                break
        return value

    def _only_reader(self, value: int) -> Node | None:
        readers = self.graph.readers[value]
        return readers[0] if len(readers) == 1 else None

    def _shape(self, value: int) -> tuple[int, ...]:
        return self.graph.values[value].shape

    def made(self, node: Node) -> int:
        """The value that a call with one result makes."""
        ref = node.outputs[0]
        assert ref is not None, "these operators return a tensor"
        return ref.value
