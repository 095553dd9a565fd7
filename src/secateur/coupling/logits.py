"""Products of queries with keys: what an attention compares, and over which axis it sums.

    logits[h, i, j] = scale * sum over d of  queries[h, i, d] * keys[h, j, d]

They are computed by a matrix product of two activations, or inside a fused attention. A softmax over j does
not see what is added to all logits of a row, so there all keys may be moved by one vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.coupling.groups import Groups
from secateur.coupling.layers import layer_of
from secateur.coupling.rule import traits_of
from secateur.graph.axes import Expr, leaves
from secateur.graph.node import Graph, Node, Ref
from secateur.graph.trait import Trait

_NAMES = (("query", "key"), ("self", "mat2"), ("self", "other"))
_SOFTMAX = ("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten._safe_softmax")


@dataclass(frozen=True)
class LogitsCall:
    """One call that sums over an axis of two activations.

    Attributes:
        node: The call.
        names: What queries and keys are called in it.
        query: The value of the queries, [..., queries, width].
        key: The value of the keys, [..., keys, width] in a fused attention, else [..., width, keys].
        ignores_shifts: A softmax over the keys is all that reads the logits.
    """

    node: Node
    names: tuple[str, str]
    query: int
    key: int
    ignores_shifts: bool

    @property
    def is_fused(self) -> bool:
        """Whether the logits are inside a fused attention."""
        return self.names[0] == "query"

    def operands(
        self, named: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "*heads queries width"], Float[Tensor, "*heads keys width"]]:
        """Queries and keys of one run, of as many heads; their products are the logits.

        Args:
            named: The arguments of the call by their names.

        Returns:
            Both in float64, the keys with the scale of a fused attention; around the mean of all keys where
            no reader sees what that changes.
        """
        query, key = (_double(named[name]) for name in self.names)
        if self.is_fused:
            scale = named.get("scale")
            key = key * (query.shape[-1] ** -0.5 if scale is None else scale)
            if named.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
                key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        else:
            key = key.transpose(-1, -2)
        heads = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        query, key = (one.expand(*heads, *one.shape[-2:]) for one in (query, key))
        return query, key - key.mean(-2, keepdim=True) if self.ignores_shifts else key


def logits_call(graph: Graph, node: Node) -> LogitsCall | None:
    """The product of queries with keys that a node computes; None if it computes none."""
    for names in _NAMES:
        refs = [node.args.get(name) for name in names]
        if all(isinstance(ref, Ref) and ref.value in graph.from_inputs for ref in refs):
            break
    else:
        return None
    is_fused = names[0] == "query"
    is_product = Trait.LAYER in traits_of(node) or names[1] == "mat2"
    query, key = (ref.value for ref in refs if isinstance(ref, Ref))
    ranks = [len(graph.values[value].shape) for value in (query, key)]
    if not (is_fused or is_product) or min(ranks) < 2 or layer_of(graph, node) is not None:
        return None
    if any(graph.values[value].dtype.startswith("complex") for value in (query, key)):
        return None
    return LogitsCall(node, names, query, key, is_fused or _is_softmaxed(graph, node))


def width_of(groups: Groups, call: LogitsCall) -> Expr:
    """The dim that a product of queries with keys sums over."""
    return groups.findings.dims[call.query][-1]


def logits_calls(groups: Groups) -> list[LogitsCall]:
    """The products of queries with keys of a model, in its order; none of what may lose nothing."""
    found = (logits_call(groups.graph, node) for node in groups.graph.nodes)
    return [call for call in found if call is not None and leaves(width_of(groups, call))]


def _is_softmaxed(graph: Graph, node: Node) -> bool:
    """Whether nothing but shifts and scales lies between a product and the softmax that alone reads it."""
    while node.outputs and node.outputs[0] is not None:
        value = node.outputs[0].value
        readers = graph.readers[value]
        if len(readers) != 1 or value in graph.outputs:
            return False
        node = readers[0]
        if node.op in _SOFTMAX:
            return node.args.get("dim") in (-1, len(graph.values[value].shape) - 1)
        traits, is_first = traits_of(node), node.args.get("self") == Ref(value)
        is_affine = Trait.ARITHMETIC in traits and len(node.reads) == 1
        is_kept = Trait.POINTWISE | Trait.MOVES in traits
        if not (is_affine or is_kept or (Trait.ADDS in traits and is_first)):
            return False
    return False


def _double(tensor: Tensor) -> Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).detach().double()
