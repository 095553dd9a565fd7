"""The proof on smaller images, where a model does the same with them: convolutions are most of its cost.

    record on the example  =  record on smaller images:   the same operators on the same parameters, and the
                                                          same real numbers; only sizes differ

Where that holds, what a cut did wrong at the size of the example, and not at another, can only be a size, and
sizes are compared in the record of the example itself. What is not proven so is proven on the example.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.capture.inputs import map_inputs
from secateur.capture.recording import record
from secateur.coupling import Recorded
from secateur.graph.node import Graph, Node, Ref
from secateur.proof.inputs import resized
from secateur.proof.passes import Reference
from secateur.proof.regrouping import carried_over

_LARGE, _SIDE, _STEP = 128, 96, 32


def on_smaller(reference: Reference, recorded: Recorded) -> tuple[Reference, Any] | None:
    """How the original is run on smaller images, and those; None where it does not do the same with them.

    Args:
        reference: How it is run on the example.
        recorded: The original with its record.
    """
    graph = reference.graph
    inputs = smaller_inputs(recorded.inputs) if graph.substrate == "fake" else None
    if inputs is None:
        return None
    found, failure = record(recorded.model, inputs, "fake", state=graph.state)
    leaves_traces = graph.leaves_traces or found.leaves_traces  # a table of the size of the first run, say
    if failure is not None or leaves_traces or not is_same_path(graph, found):
        return None
    carried = carried_over(reference.groups, reference.kept, found)
    if carried is None:
        return None
    return Reference(*carried, foreign=reference.foreign, recorded=recorded), inputs


def smaller_inputs(example_inputs: Any) -> Any:
    """Inputs with smaller images; None where there are none, or they are small.

    Example:
        >>> import torch
        >>> smaller_inputs((torch.zeros(1, 3, 224, 320), 1))[0].shape
        torch.Size([1, 3, 96, 128])
        >>> smaller_inputs(torch.zeros(1, 3, 64, 64))
    """
    images = [
        leaf
        for leaf in pytree.tree_leaves(example_inputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() == 4
    ]
    sides = sorted({side for leaf in images for side in leaf.shape[-2:]})
    if len(images) != 1 or sides[0] <= _LARGE:
        return None
    sizes: Mapping[int, int] = {side: _SIDE + _STEP * at for at, side in enumerate(sides)}
    return map_inputs(example_inputs, partial(resized, sizes=sizes))


def is_same_path(one: Graph, two: Graph) -> bool:
    """Whether two records of a model show the same operators on the same parameters: only sizes differ."""
    return len(one.nodes) == len(two.nodes) and all(
        first.op == second.op
        and first.overload == second.overload
        and first.modules == second.modules
        and len(first.outputs) == len(second.outputs)
        and all(_is_same(one, held, two, second.args[name]) for name, held in first.args.items())
        for first, second in zip(one.nodes, two.nodes, strict=True)
    )


def _is_same(one: Graph, first: Any, two: Graph, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, Ref):
        maker, other = (graph.maker.get(ref.value) for graph, ref in ((one, first), (two, second)))
        names = one.names.get(first.value), two.names.get(second.value)
        return names[0] == names[1] and _index(maker) == _index(other)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(
            _is_same(one, *pair[:1], two, *pair[1:]) for pair in zip(first, second, strict=True)
        )
    return (isinstance(first, int) and not isinstance(first, bool)) or bool(first == second)


def _index(node: Node | None) -> int:
    return -1 if node is None else node.index
