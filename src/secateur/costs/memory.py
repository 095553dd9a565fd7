"""Memory: how many bytes a forward pass needs at once, from the record alone.

    memory = bytes of parameters and buffers + max over calls of the bytes of the activations alive in it

An activation is alive from the call that makes it to the last call that reads it, both included; the inputs
and outputs of the model, and constants of its code, to the end and from the start as they belong to the
caller. A view, or a result that is written in place, has the memory of what it looks at. This is what a
forward pass without gradients needs at the least, on the recorded inputs: Python may hold a local variable
longer than it is read, and kernels take scratch memory of their own.

One sweep over the calls: O(calls + values).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.costs.meter import CostMeter, Term, item_bytes, size_term, size_terms
from secateur.coupling import Groups
from secateur.coupling.rule import traits_of
from secateur.graph.node import Graph, Node, Ref, first_operand, refs_in
from secateur.graph.trait import Trait


def memory_meter(groups: Groups) -> CostMeter:
    """Measures the peak memory in bytes of a forward pass, weights included."""
    weights = size_terms(groups)
    terms, spans = _activations(groups)
    peak = _peak(spans, len(groups.graph.nodes))

    def join(each: NDArray[np.float64]) -> float:
        return float(each[: len(weights)].sum() + peak(each[len(weights) :]))

    return CostMeter([*weights, *terms], join)


def activation_bytes(groups: Groups) -> int:
    """The peak of the activations of the model as it is recorded, in bytes."""
    terms, spans = _activations(groups)
    peak = _peak(spans, len(groups.graph.nodes))
    return int(peak(np.array([term.at({}) for term in terms], dtype=np.float64)))


def _activations(groups: Groups) -> tuple[list[Term], list[tuple[int, int]]]:
    """The size of each piece of memory, and the first and the last call in which it is alive."""
    graph = groups.graph
    terms, spans = [], []
    for value, span in _lifetimes(graph).items():
        held = graph.values[value]
        dims = groups.findings.dims.get(value)
        size = item_bytes(held.dtype)
        terms.append(
            size_term(dims, size) if dims is not None else size_term([], size * float(np.prod(held.shape)))
        )
        spans.append(span)
    return terms, spans


def _peak(spans: list[tuple[int, int]], calls: int) -> Callable[[NDArray[np.float64]], float]:
    starts = np.array([first for first, _ in spans], dtype=np.int64)
    ends = np.array([last + 1 for _, last in spans], dtype=np.int64)

    def peak(sizes: NDArray[np.float64]) -> float:
        if not len(sizes):
            return 0.0
        change = np.bincount(starts, sizes, calls + 2) - np.bincount(ends, sizes, calls + 2)
        return float(change.cumsum().max())

    return peak


def _lifetimes(graph: Graph) -> dict[int, tuple[int, int]]:
    """The first and last call of each piece of memory that is no parameter or buffer, by its first value."""
    end = len(graph.nodes)
    first = {index: 0 for index, held in enumerate(graph.values) if held.kind in ("input", "constant")}
    last = dict.fromkeys(first, end)
    owner = _owners(graph)
    for node in graph.nodes:
        for output in node.outputs:
            if output is not None and output.value not in owner and graph.values[output.value].kind == "node":
                first.setdefault(output.value, node.index)
                last.setdefault(output.value, node.index)
        for value in node.reads:
            root = owner.get(value, value)
            if root in last:
                last[root] = max(last[root], node.index)
    for value in graph.outputs:
        root = owner.get(value, value)
        if root in last:
            last[root] = end
    return {value: (first[value], last[value]) for value in first}


def _owners(graph: Graph) -> dict[int, int]:
    """For each value that has no memory of its own the one whose memory it looks at."""
    owner: dict[int, int] = {}
    scattered: set[int] = set()
    for node in graph.nodes:
        for output, base in zip(node.outputs, _bases(node, graph, scattered), strict=True):
            if output is None or base is None or output.value == base or output.value in owner:
                continue
            owner[output.value] = owner.get(base, base)
            if _scatters(node) or base in scattered:
                scattered.add(output.value)
    return owner


def _bases(node: Node, graph: Graph, scattered: set[int]) -> Iterator[int | None]:
    """For each output of a call the value whose memory it shares, or None if it has its own."""
    arguments = _aliased(node)
    for position, output in enumerate(node.outputs):
        name = arguments[min(position, len(arguments) - 1)] if arguments else None
        base = next((ref.value for ref in refs_in(node.args.get(name))), None) if name else None
        if base is not None and output is not None and _copies(node, base, output, graph, scattered):
            base = None
        yield base


def _copies(node: Node, base: int, output: Ref, graph: Graph, scattered: set[int]) -> bool:
    """Whether an operator that may return a view makes a copy here."""
    if Trait.PACKS in traits_of(node):
        return base in scattered
    return graph.values[base].dtype != graph.values[output.value].dtype and "view" not in node.op


def _scatters(node: Node) -> bool:
    """Whether the numbers of a view no longer lie row by row, so that reshaping it makes a copy."""
    traits = traits_of(node)
    return Trait.VIEW in traits and Trait.ROW_MAJOR not in traits


def shares_memory(node: Node) -> bool:
    """Whether all that a call returns are views: it computes nothing."""
    if Trait.VIEW in traits_of(node):
        return True
    schema = _schema(node)
    returned = [] if schema is None else list(schema.returns)
    return (
        bool(returned)
        and all(_same_memory(schema, one) is not None for one in returned)
        and not any(argument.is_write for argument in schema.arguments)
    )


def _aliased(node: Node) -> list[str | None]:
    """For each return of an operator's schema the argument that it shares memory with."""
    schema = _schema(node)
    shared = [] if schema is None else [_same_memory(schema, returned) for returned in schema.returns]
    operand = first_operand(node) if Trait.VIEW in traits_of(node) else None
    if operand is None or any(shared):
        return shared
    return [node.argument_of(operand)]  # its schema does not say so: dropout in eval mode


def _schema(node: Node) -> Any:
    """The schema of a call's operator; None if it has none."""
    namespace, _, name = node.op.partition(".")
    func = getattr(getattr(getattr(torch.ops, namespace), name, None), node.overload, None)
    return getattr(func, "_schema", None)


def _same_memory(schema: Any, returned: Any) -> str | None:
    """The argument that a return shares memory with."""
    if returned.alias_info is None:
        return None
    # pieces of `split`: their set is not named, its argument is "a -> *"
    is_list = "List" in str(returned.type)
    for argument in schema.arguments:
        alias = argument.alias_info
        if alias is not None and (is_list or alias.before_set & returned.alias_info.before_set):
            return str(argument.name)
    return None
