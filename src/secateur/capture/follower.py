"""Run a model in step with its record, with a say at every operator.

The proof by numbers and the recovery steps need to see or to change what an operator computes, on real
tensors, in the original model's own Python. `follow` runs it and calls back with the node that the record
holds for each dispatched operator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur.capture.caches import start_afresh
from secateur.capture.inputs import as_call, cloned, output_tensors
from secateur.capture.modes import Mode
from secateur.capture.operators import is_recorded, operator_name, schema_arguments
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers, draw, is_seeded, seed_of
from secateur.capture.shadow import shadow
from secateur.capture.switches import recording_context
from secateur.errors import PathError
from secateur.graph.node import Graph, Node

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Step:
    """One dispatched call beside the node that recorded it.

    Attributes:
        node: The recorded call.
        func: The operator overload.
        args: Positional arguments of this run.
        kwargs: Keyword arguments of this run.
        seed: Of what it draws.
    """

    node: Node
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    seed: int = 0

    def run(self) -> Any:
        """Compute the operator as called; one that draws has a generator of its own."""
        if is_seeded(self.func, self.args, self.kwargs):
            return draw(self.func, self.args, self.kwargs, self.seed)
        return self.func(*self.args, **self.kwargs)

    def named(self) -> dict[str, Any]:
        """Every argument by its name in the operator's schema."""
        return dict(schema_arguments(self.func, self.args, dict(self.kwargs)))


DENSE = "aten.contiguous"
"""PyTorch calls it only for a tensor whose numbers do not lie in a row, which a cut can change."""


class _Follower(Mode):
    supports_higher_order_operators = True

    def __init__(
        self,
        graph: Graph,
        on_step: Callable[[Step], Any],
        on_alias: Callable[[Any, Any], None],
        on_dense: Callable[[Node], None] | None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.on_step = on_step
        self.on_alias = on_alias
        self.on_dense = on_dense
        self.at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_recorded(func):
            output = func(*args, **kwargs)
            if isinstance(output, Tensor):
                self.on_alias(output, args[0])
            return output
        if self.on_dense is not None and self._next_op() != operator_name(func):
            while self._next_op() == DENSE:
                self.on_dense(self.graph.nodes[self.at])
                self.at += 1
            if operator_name(func) == DENSE:
                output = func(*args, **kwargs)
                self.on_alias(output, args[0])
                return output
        node = self.graph.nodes[self.at] if self.at < len(self.graph.nodes) else None
        self.at += 1
        if node is None or node.op != operator_name(func):
            raise PathError(
                f"the model took another path than in its record: {operator_name(func)} "
                f"instead of {node or 'the end'}",
                do="its control flow depends on numbers; protect that part",
            )
        return self.on_step(Step(node, func, tuple(args), kwargs, seed_of(self.graph.seed, node.index)))

    def _next_op(self) -> str:
        return self.graph.nodes[self.at].op if self.at < len(self.graph.nodes) else ""


def follow(
    model: nn.Module,
    example_inputs: Any,
    graph: Graph,
    on_step: Callable[[Step], Any],
    on_alias: Callable[[Any, Any], None] = lambda output, source: None,
    on_dense: Callable[[Node], None] | None = None,
) -> Any:
    """Run a model beside its record.

    Args:
        model: The recorded model, in eval mode; parameters may hold any values.
        example_inputs: Inputs of the recorded shapes.
        graph: Its record.
        on_step: Gets every call; what it returns is the call's result.
        on_alias: Told of a tensor that shows another one by an operator that is not recorded.
        on_dense: Told of a recorded call that brings the numbers of a tensor into a row and that the model
            leaves out, as they lie in one; it may then also make such calls of its own. None for a model
            that must make the very calls of the record.

    Returns:
        The model's output.

    Raises:
        PathError: The model takes another path than in its record.

    Example:
        >>> import torch
        >>> from secateur.capture.recording import capture
        >>> model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3)
        >>> seen = []
        >>> _ = follow(model, x, capture(model, x), lambda step: (seen.append(step.node.op), step.run())[1])
        >>> seen
        ['aten.linear', 'aten.relu']
    """
    start_afresh()
    args, kwargs = as_call(example_inputs)
    follower = _Follower(graph, on_step, on_alias, on_dense)
    with outside_kept(model, graph.seed), recording_context():
        for _ in range(graph.calls):
            with OwnNumbers(graph.seed):
                model(*args, **kwargs)
        with follower:
            return model(*args, **kwargs)


def observe(
    model: nn.Module,
    inputs: Any,
    graph: Graph,
    make: Callable[[nn.Module, Any], Seen],
    on_step: Callable[[Seen, Step], Any],
    on_alias: Callable[[Seen, Any, Any], None] = lambda seen, output, source: None,
    on_dense: Callable[[Seen, Node], None] | None = None,
) -> Seen:
    """Run one of several batches by a copy of a model that is in its first state.

    What a run leaves in the model (tables by the size of a map, counters, a memory of features) does not
    reach the next. A model that ran before it was recorded may hold such a table, for inputs of one size;
    where it makes another for this batch, what counts is a second run, which finds it made.

    Args:
        model: The recorded model or a cut of it; not changed. A copy that shares its parameters runs in eval
            mode.
        inputs: One batch; not changed.
        graph: The record.
        make: Makes what is seen of a run, empty, given the copy and the inputs that are about to run.
        on_step: Gets what was seen so far and every call; what it returns is the call's result.
        on_alias: As for `follow`, with what was seen so far first.
        on_dense: As for `follow`, with what was seen so far first.

    Returns:
        What was seen.

    Raises:
        PathError: The model takes another path than in its record.

    Example:
        >>> import torch
        >>> from secateur.capture.recording import capture
        >>> model, x = nn.Linear(3, 2), torch.zeros(1, 3)
        >>> graph = capture(model, x)
        >>> def note(seen, step):
        ...     seen.append(step.node.op)
        ...     return step.run()
        >>> observe(model, x, graph, lambda *_: [], note)
        ['aten.linear']
    """

    def run(held: nn.Module) -> tuple[Seen, Any]:
        given = cloned(inputs)
        seen, count = make(held, given), 0

        def step(call: Step) -> Any:
            nonlocal count
            count += 1
            return on_step(seen, call)

        def dense(node: Node) -> None:
            nonlocal count
            count += 1
            assert on_dense is not None, "it is given then only"
            on_dense(seen, node)

        output = follow(
            held, given, graph, step, partial(on_alias, seen), None if on_dense is None else dense
        )
        for node in graph.nodes[count:] if on_dense is not None else ():
            if node.op == DENSE:
                dense(node)
        if count != len(graph.nodes):
            raise PathError(
                f"the model made {count} calls, {len(graph.nodes)} in its record",
                do="its control flow depends on numbers; protect that part",
            )
        return seen, output

    try:
        return run(shadow(model).eval())[0]
    except PathError as error:
        missed = error.with_traceback(None)  # which holds on to the copy
    held = shadow(model).eval()
    args, kwargs = as_call(cloned(inputs))
    with outside_kept(model, graph.seed), recording_context(), OwnNumbers(graph.seed):
        first = output_tensors(held(*args, **kwargs))
    try:
        seen, output = run(held)
    except PathError:
        raise missed from None
    if not all(map(torch.equal, first, output_tensors(output))):
        raise missed
    return seen
