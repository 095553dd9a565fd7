"""Run a model in step with its record, with a say at every operator.

The proof by numbers and the recovery steps need to see or to change what an operator computes, on real
tensors, in the original model's own Python. `follow` runs it and calls back with the node that the record
holds for each dispatched operator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.capture.caches import start_afresh
from secateur.capture.inputs import as_call
from secateur.capture.operators import is_recorded, operator_name, schema_arguments
from secateur.capture.recorder import recording_context
from secateur.errors import PathError
from secateur.graph.node import Graph, Node


@dataclass(frozen=True)
class Step:
    """One dispatched call beside the node that recorded it.

    Attributes:
        node: The recorded call.
        func: The operator overload.
        args: Positional arguments of this run.
        kwargs: Keyword arguments of this run.
    """

    node: Node
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self) -> Any:
        """Compute the operator as called."""
        return self.func(*self.args, **self.kwargs)

    def named(self) -> dict[str, Any]:
        """Every argument by its name in the operator's schema."""
        return dict(schema_arguments(self.func, self.args, dict(self.kwargs)))


_DENSE = "aten.contiguous"
"""PyTorch calls it only for a tensor whose numbers do not lie in a row, which a cut can change."""


class _Follower(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(
        self,
        graph: Graph,
        on_step: Callable[[Step], Any],
        on_alias: Callable[[Any, Any], None],
        *,
        may_be_dense: bool = False,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.on_step = on_step
        self.on_alias = on_alias
        self.may_be_dense = may_be_dense
        self.at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_recorded(func):
            output = func(*args, **kwargs)
            if isinstance(output, Tensor):
                self.on_alias(output, args[0])
            return output
        if self.may_be_dense and operator_name(func) != _DENSE:
            while self.at < len(self.graph.nodes) and self.graph.nodes[self.at].op == _DENSE:
                self.at += 1
        node = self.graph.nodes[self.at] if self.at < len(self.graph.nodes) else None
        self.at += 1
        if node is None or node.op != operator_name(func):
            raise PathError(
                f"the model took another path than in its record: {operator_name(func)} "
                f"instead of {node or 'the end'}",
                do="its control flow depends on numbers; protect that part",
            )
        return self.on_step(Step(node, func, tuple(args), kwargs))


def follow(
    model: nn.Module,
    example_inputs: Any,
    graph: Graph,
    on_step: Callable[[Step], Any],
    on_alias: Callable[[Any, Any], None] = lambda output, source: None,
    *,
    may_be_dense: bool = False,
) -> Any:
    """Run a model beside its record.

    Args:
        model: The recorded model, in eval mode; parameters may hold any values.
        example_inputs: Inputs of the recorded shapes.
        graph: Its record.
        on_step: Gets every call; what it returns is the call's result.
        on_alias: Told of a tensor that shows another one by an operator that is not recorded.
        may_be_dense: Calls that bring the numbers of a tensor into a row may be left out.

    Returns:
        The model's output.

    Raises:
        PathError: The model takes another path than in its record.

    Example:
        >>> import torch
        >>> from secateur.capture.recorder import capture
        >>> model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3)
        >>> seen = []
        >>> _ = follow(model, x, capture(model, x), lambda step: (seen.append(step.node.op), step.run())[1])
        >>> seen
        ['aten.linear', 'aten.relu']
    """
    start_afresh()
    args, kwargs = as_call(example_inputs)
    with recording_context(), _Follower(graph, on_step, on_alias, may_be_dense=may_be_dense):
        return model(*args, **kwargs)
