"""Which batch norms may go into the layer before them, decided by who reads what, and why others stay.

    y = scale (W x + b - mean) / sqrt(variance + eps) + shift,    for each output channel of W

is W' x + b' where nothing else reads W x + b, nothing else holds W, and the statistics are those that the
norm holds. The order of modules says none of that; the record of a run does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.graph.node import Graph, Node, Ref, first_operand

LAYERS: Mapping[str, bool] = {
    "aten.linear": False,
    "aten.conv1d": False,
    "aten.conv2d": False,
    "aten.conv3d": False,
    "aten.conv_transpose1d": True,
    "aten.conv_transpose2d": True,
    "aten.conv_transpose3d": True,
}
"""Operators of layers that a norm goes into, and whether their weights have the inputs first."""

_NORM = "aten.batch_norm"
_NORM_TENSORS = ("running_mean", "running_var", "weight", "bias")


@dataclass(frozen=True)
class NormPair:
    """A batch norm, and the layer that it goes into.

    Attributes:
        layer: Name of the module of the layer.
        norm: Name of the module of the norm.
        at: Indices of their calls in the record.
        weight: Name of the layer's weight.
        bias: Name of the layer's bias; it may not have one yet.
        statistics: Names of the norm's mean, variance, scale and shift; None where it has no such tensor.
        eps: What is added to the variance.
        groups: Of a transposed convolution; 0 for other layers.
        rest: What else runs in the norm's module, behind it: names of its children in order.
    """

    layer: str
    norm: str
    at: tuple[int, int]
    weight: str
    bias: str
    statistics: tuple[str | None, ...]
    eps: float
    groups: int = 0
    rest: tuple[str, ...] = ()


class _StaysError(Exception):
    """A norm stays where it is; the reason is the text."""


def find_pairs(model: nn.Module, graph: Graph) -> tuple[dict[str, NormPair], dict[str, str]]:
    """Find the batch norms that may go into the layer before them.

    Args:
        model: The model; not changed.
        graph: Its record in eval mode.

    Returns:
        By name of the norm: the pairs, and the reasons of those that stay.

    Example:
        >>> import torch
        >>> from secateur.capture import capture
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
        >>> pairs, reasons = find_pairs(net, capture(net, torch.zeros(1, 3, 8, 8)))
        >>> pairs["1"].layer, reasons
        ('0', {'3': 'it follows aten.relu, which is no convolution or linear layer'})
    """
    pairs: dict[str, NormPair] = {}
    reasons: dict[str, str] = {}
    finder = _Finder(model, graph)
    for node in graph.nodes:
        if node.op != _NORM:
            continue
        name = finder.norm_of(node)
        try:
            pairs[name] = finder.pair(node, name)
        except _StaysError as stays:
            reasons.setdefault(name, str(stays))
    return pairs, reasons


class _Finder:
    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.modules = dict(model.named_modules(remove_duplicate=False))

    def norm_of(self, node: Node) -> str:
        """The name of the module that holds the norm's numbers; else of the one that runs it."""
        for key in _NORM_TENSORS:
            held = node.args.get(key)
            names = self.graph.names.get(held.value, ()) if isinstance(held, Ref) else ()
            if names:
                return names[0].rpartition(".")[0]
        return node.modules[-1] if node.modules else ""

    def pair(self, node: Node, norm: str) -> NormPair:
        """The pair of a norm.

        Raises:
            _StaysError: It stays, with the reason.
        """
        statistics = self._statistics(node, norm)
        value = first_operand(node)
        layer = self.graph.maker.get(value) if value is not None else None
        if layer is None or value is None:
            raise _StaysError("it reads what the model is given, or a constant")
        if layer.op not in LAYERS:
            raise _StaysError(f"it follows {layer.op}, which is no convolution or linear layer")
        self._require_alone(value, node, layer)
        weight, bias = self._layer_tensors(layer)
        self._require_channels(layer, value)
        return NormPair(
            layer=weight.rpartition(".")[0],
            norm=norm,
            at=(layer.index, node.index),
            weight=weight,
            bias=bias,
            statistics=statistics,
            eps=float(node.args["eps"]),
            groups=int(layer.args["groups"]) if LAYERS[layer.op] else 0,
            rest=self._rest(node, norm),
        )

    def _statistics(self, node: Node, norm: str) -> tuple[str | None, ...]:
        if node.args["training"]:
            raise _StaysError("it takes the statistics of each batch")
        found: list[str | None] = []
        for key in _NORM_TENSORS:
            held = node.args[key]
            if not isinstance(held, Ref):
                found.append(None)
                continue
            names = self.graph.names.get(held.value, ())
            if not names:
                raise _StaysError(f"its {key} is computed")
            if len(names) > 1:
                raise _StaysError(f"its {key} is in the model under {len(names)} names: {', '.join(names)}")
            readers = self.graph.readers[held.value]
            if readers != (node,):
                same = all(one.op == _NORM for one in readers)
                other = next((one for one in readers if one is not node), node)
                raise _StaysError(f"it runs {len(readers)} times" if same else f"{other} reads its {key}")
            if names[0].rpartition(".")[0] != norm:
                raise _StaysError(f"its {key} is held by another module: {names[0]}")
            found.append(names[0])
        if found[0] is None or found[1] is None:
            raise _StaysError("it holds no statistics")
        return tuple(found)

    def _require_alone(self, value: int, node: Node, layer: Node) -> None:
        """Refuse a layer whose output somebody else sees."""
        others = [one for one in self.graph.readers[value] if one is not node]
        if others:
            raise _StaysError(f"{others[0]} reads what it reads")
        if value in self.graph.outputs:
            raise _StaysError("the model returns what it reads")
        for name in sorted({*layer.modules} ^ {*node.modules} | {*layer.modules[-1:], *node.modules[-1:]}):
            module = self.modules.get(name)
            if module is not None and (module._forward_hooks or module._forward_pre_hooks):
                raise _StaysError(f"{name or 'the model'} has hooks, which may look at what it reads")

    def _layer_tensors(self, layer: Node) -> tuple[str, str]:
        """The names of a layer's weight and of its bias, which it may not have yet."""
        weight = self._own(layer, "weight")
        if isinstance(layer.args["bias"], Ref):
            return weight, self._own(layer, "bias")
        owner = weight.rpartition(".")[0]
        module = self.modules[owner]
        is_known = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
        if not is_known or module._parameters.get("bias", module) is not None:
            raise _StaysError(f"{owner} has no bias, and its code may not take one")
        return weight, f"{owner}.bias" if owner else "bias"

    def _own(self, layer: Node, key: str) -> str:
        """The name of a tensor of a layer that is its alone."""
        value = layer.args[key].value
        names = self.graph.names.get(value, ())
        if not names:
            raise _StaysError(f"the {key} of {layer} is computed, by a parametrization or a mask")
        if self.graph.values[value].kind != "parameter":
            raise _StaysError(f"the {key} {names[0]} is no parameter")
        if len(names) > 1:
            raise _StaysError(f"the {key} of its layer is shared: {', '.join(names)}")
        if self.graph.readers[value] != (layer,):
            raise _StaysError(f"the {key} {names[0]} is read {len(self.graph.readers[value])} times")
        return names[0]

    def _require_channels(self, layer: Node, value: int) -> None:
        """Refuse a norm over another dim than that of the layer's channels, such as of unbatched inputs."""
        dims = len(self.graph.values[value].shape)
        weight = layer.args["weight"]
        if dims != len(self.graph.values[weight.value].shape):
            raise _StaysError(f"the channels of {layer.op} do not lie in dim 1 of its result of {dims} dims")

    def _rest(self, node: Node, norm: str) -> tuple[str, ...]:
        """The children that run in the norm's module behind it, one after the other."""
        if norm not in node.modules or not norm:
            raise _StaysError(f"other code than its own runs it: {node}")
        inside = [one for one in self.graph.nodes if norm in one.modules]
        if inside[0] is not node:
            raise _StaysError(f"its module computes something before it: {inside[0]}")
        children = list(self._children(inside[1:], norm))
        rest = tuple(dict.fromkeys(children))
        if len([one for at, one in enumerate(children) if not at or children[at - 1] != one]) > len(rest):
            raise _StaysError("its module computes something behind it, in another order than one by one")
        return rest

    def _children(self, nodes: list[Node], norm: str) -> Iterator[str]:
        """The child of a module that each of its calls is of."""
        for one in nodes:
            inner: Any = one.modules[one.modules.index(norm) + 1 :]
            child = inner[0].removeprefix(f"{norm}.") if inner else ""
            if child not in self.modules[norm]._modules:
                raise _StaysError(f"its module computes something behind it: {one}")
            yield child
