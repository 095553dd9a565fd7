"""Answers: what a model returns, taken apart into the tensors that a replay makes, and put together again."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.capture.inputs import fields_of, output_tensors
from secateur.errors import PathError
from secateur.graph.node import Graph, Ref


class ReplayedOutput:
    """What a model returns, taken apart into tensors that a replay makes, and put together again.

    Args:
        output: What the model returned.
        graph: Its record.

    Attributes:
        values: The values that its tensors are, in order.
        made: The call that makes each, and which of its results it is.

    Raises:
        PathError: A tensor in it is made by no call.
    """

    def __init__(self, output: Any, graph: Graph) -> None:
        self.output, self.state = output, graph.state
        self.values = graph.outputs
        count = len(self.tensors(output))
        if not count or len(self.values) != count or any(value not in graph.maker for value in self.values):
            raise PathError(
                "no operator makes the output of the model", do="pass a model that computes what it returns"
            )
        makers = {value: graph.maker[value] for value in self.values}
        self.made = {value: (node.index, node.outputs.index(Ref(value))) for value, node in makers.items()}

    def tensors(self, output: Any) -> list[Tensor]:
        """The tensors of an output, in order, but for what only the next call takes: a cache."""
        return output_tensors(output, self.state)

    def of(self, tensors: Sequence[Tensor]) -> Any:
        """An output with these tensors."""
        held = self.tensors(self.output)
        return replaced(self.output, {id(one): new for one, new in zip(held, tensors, strict=True)})


def replaced(output: Any, tensors: Mapping[int, Tensor]) -> Any:
    """What a model returned, with other tensors in the places of its own.

    Args:
        output: What it returned.
        tensors: The others, by the identity of its own.

    Example:
        >>> import torch
        >>> old = torch.zeros(1)
        >>> replaced({"logits": (old, 3)}, {id(old): torch.ones(1)})
        {'logits': (tensor([1.]), 3)}
    """

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return tensors.get(id(leaf), leaf)
        inner = fields_of(leaf)
        if not inner and not hasattr(leaf, "__dict__"):
            return leaf
        copied = copy.copy(leaf)
        for name, item in (inner or vars(leaf)).items():
            object.__setattr__(copied, name, replaced(item, tensors))
        return copied

    return pytree.tree_map(replace, output)
