"""Which attributes of `torch.nn` modules are sizes of which dims.

A module's integers must follow its tensors, or printing it, saving it and its own shape checks would lie; a
grouped convolution would not even run. The sizes are read off the recorded call: an operand's dim, or an
integer argument that the operator's rule bound to a dim.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from secateur.coupling.call import Findings
from secateur.graph.axes import Expr, product
from secateur.graph.node import Graph, Node, Ref

Sizes: TypeAlias = Expr | tuple[Expr, ...]
Source: TypeAlias = Callable[[Findings, Node], Sizes | None]


def _operand(name: str, dim: int) -> Source:
    def read(findings: Findings, node: Node) -> Sizes | None:
        ref = node.args.get(name)
        return findings.dims[ref.value][dim] if isinstance(ref, Ref) else None

    return read


def _literal(name: str) -> Source:
    return lambda findings, node: findings.literals.get((node.index, (name,)))


def _literals(name: str) -> Source:
    def read(findings: Findings, node: Node) -> Sizes | None:
        found = [findings.literals.get((node.index, (name, at))) for at in range(len(node.args[name]))]
        return tuple(expr for expr in found if expr is not None) if all(found) else None

    return read


def _times(first: Source, second: Source) -> Source:
    def read(findings: Findings, node: Node) -> Sizes | None:
        one, two = first(findings, node), second(findings, node)
        if one is None or two is None or isinstance(one, tuple) or isinstance(two, tuple):
            return None
        return product(one, two)

    return read


_CONVOLUTION: Mapping[str, Source] = {
    "out_channels": _operand("weight", 0),
    "in_channels": _times(_literal("groups"), _operand("weight", 1)),
    "groups": _literal("groups"),
}
_TRANSPOSED: Mapping[str, Source] = {
    "in_channels": _operand("weight", 0),
    "out_channels": _times(_literal("groups"), _operand("weight", 1)),
    "groups": _literal("groups"),
}

_TABLE: Mapping[str, Mapping[str, Source]] = {
    "Linear": {"out_features": _operand("weight", 0), "in_features": _operand("weight", 1)},
    "Conv1d": _CONVOLUTION,
    "Conv2d": _CONVOLUTION,
    "Conv3d": _CONVOLUTION,
    "ConvTranspose1d": _TRANSPOSED,
    "ConvTranspose2d": _TRANSPOSED,
    "ConvTranspose3d": _TRANSPOSED,
    "_NormBase": {"num_features": _operand("input", 1)},
    "GroupNorm": {"num_channels": _operand("input", 1), "num_groups": _literal("num_groups")},
    "LayerNorm": {"normalized_shape": _literals("normalized_shape")},
    "RMSNorm": {"normalized_shape": _literals("normalized_shape")},
    "Embedding": {"embedding_dim": _operand("weight", 1)},
    "PReLU": {"num_parameters": _operand("weight", 0)},
    "ChannelShuffle": {"groups": _literal("groups")},
    "Unflatten": {"unflattened_size": _literals("sizes")},
}


def attributes_of(graph: Graph, findings: Findings) -> dict[str, dict[str, Sizes]]:
    """Find the attributes of standard modules that are sizes.

    Args:
        graph: The record.
        findings: What the rules found in it.

    Returns:
        By module name and attribute: the dim it is the size of, or a tuple of dims.
    """
    found: dict[str, dict[str, Sizes]] = {}
    for node in graph.nodes:
        name = node.modules[-1] if node.modules else ""
        kinds = graph.module_types.get(name, ())
        kind = next((kind for kind in kinds if kind in _TABLE), None)
        if kind is None:
            continue
        for attribute, source in _TABLE[kind].items():
            try:
                sizes = source(findings, node)
            except (KeyError, IndexError):
                continue  # another operator of the same module
            if sizes is not None:
                found.setdefault(name, {}).setdefault(attribute, sizes)
    return found
