"""Inputs of another size, and models that train otherwise than they run.

A table of positions that was cut to the length of the example, a cache that was filled for its size, a
number that a correction fixed: on the example they are right. So the proof runs both models again, as they
are after the first pass, on inputs of another size where the model takes one: images smaller, sequences
longer, one more sample. The same pass is in training mode where that computes something else.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.capture.inputs import map_inputs
from secateur.graph.node import Graph

_SMALL = 64


def trains_otherwise(graph: Graph) -> bool:
    """Whether some operator of a record in eval mode is told so: batch statistics, dropout of more than none.

    Args:
        graph: A record in eval mode.
    """
    return any(
        node.args.get(switch) is False and node.args.get("p", 1)
        for node in graph.nodes
        for switch in ("training", "train")
    )


def other_inputs(example_inputs: Any, *, training: bool) -> Iterator[Any]:
    """Yield inputs of other sizes that a model may take, the most different first.

    Args:
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        training: They are for the training mode: the example itself will do, too, and a single sample comes
            twice at last, as batch statistics need more than one number.

    Example:
        >>> [list(x.shape) for x in other_inputs(torch.zeros(1, 3, 224, 224), training=True)]
        [[1, 3, 64, 64], [2, 3, 64, 64], [1, 3, 224, 224], [2, 3, 224, 224]]
        >>> [list(x.shape) for x in other_inputs(torch.zeros(2, 10, dtype=torch.long), training=False)]
        [[2, 11]]
    """
    leaves = [leaf for leaf in pytree.tree_leaves(example_inputs) if isinstance(leaf, Tensor)]
    sizes = _other_sizes(leaves)
    is_single = bool(leaves) and all(leaf.dim() and len(leaf) == 1 for leaf in leaves)
    for changed in ([sizes] if sizes else []) + ([{}] if training else []):
        found = map_inputs(example_inputs, partial(resized, sizes=changed))
        yield found
        if is_single and training:
            yield map_inputs(found, lambda leaf: torch.cat([leaf, leaf]))


def shapes_of(inputs: Any) -> str:
    """The shapes of the tensors among some inputs, as words."""
    shapes = [str(list(leaf.shape)) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return f"shape {', '.join(shapes)}"


def _other_sizes(leaves: list[Tensor]) -> Mapping[int, int]:
    """New sizes by old ones: of the pixels of an image, or else of the length of a sequence."""
    for leaf in leaves:
        if leaf.is_floating_point() and leaf.dim() in (4, 5):
            return {size: _other(size) for size in leaf.shape[-2:]}
    for leaf in leaves:
        if leaf.dim() == (3 if leaf.is_floating_point() else 2):
            return {leaf.shape[1]: leaf.shape[1] + 1}
    return {}


def _other(size: int) -> int:
    """About a quarter, in steps of 32 that networks with strides take; small sizes grow instead."""
    if size > _SMALL:
        return max(_SMALL, size // 4 // 32 * 32)
    return size + 32 if size > 32 else 2 * size


def resized(leaf: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """A tensor with other sizes: cut off, or filled up with what it begins with.

    Args:
        leaf: An image, a sequence, or what belongs to one.
        sizes: New sizes by old ones.
    """
    dims = (
        range(leaf.dim() - 2, leaf.dim())
        if leaf.is_floating_point() and leaf.dim() > 3
        else range(1, leaf.dim())
    )
    if leaf.is_floating_point() and leaf.dim() == 3:
        dims = range(1, 2)
    for dim in dims:
        after = sizes.get(leaf.shape[dim], leaf.shape[dim])
        while leaf.shape[dim] < after:
            more = min(after - leaf.shape[dim], leaf.shape[dim])
            leaf = torch.cat([leaf, leaf.narrow(dim, 0, more)], dim)
        leaf = leaf.narrow(dim, 0, after)
    return leaf
