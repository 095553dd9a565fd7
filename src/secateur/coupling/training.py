"""What only training wires: auxiliary heads, heads that are shared, reshapes behind `if self.training`.

The record of the eval mode shows none of it, but the cut model must still train. So the training mode is
recorded, too, and what it says of the same parameters is compared: channels that it joins, splits, holds or
gives to parts which do not run in eval mode stay. Where it cannot be recorded to its end, parameters that no
record reads may belong to anyone: what their modules could have been given stays.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.batches import TARGETS, Sample
from secateur.capture.inputs import as_call, map_inputs
from secateur.capture.visible import Visible
from secateur.coupling.call import Findings
from secateur.coupling.groups import Groups
from secateur.coupling.solve import solve
from secateur.graph.axes import Axis, Expr, leaves, parts_of, resolve
from secateur.graph.node import Graph, Node, Ref


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """The training mode of a model.

    Attributes:
        graph: Its record, partial if it failed.
        inputs: What it was recorded on.
        failure: What it failed with; None if it did not.
    """

    graph: Graph
    inputs: Any
    failure: Exception | None

    def limits(self) -> tuple[str, ...]:
        """What could not be recorded, as words."""
        if self.failure is None:
            return ()
        text = f"{type(self.failure).__name__}: {self.failure}".partition("\n")[0]
        return (f"training mode is not recorded beyond {len(self.graph.nodes)} operators ({text[:160]})",)


Run = Callable[[Any], tuple[Graph, Exception | None]]
"""Records the training mode on some inputs."""


def record_training(model: nn.Module, inputs: Any, sample: Sample | None, run: Run) -> TrainingRecord:
    """Record the training mode on inputs that it takes.

    Args:
        model: The recorded model.
        inputs: What its eval mode was recorded on.
        sample: A batch with what should come out; None if there is none.
        run: Records.
    """
    best: TrainingRecord | None = None
    for given in training_inputs(model, inputs, sample):
        found, failure = run(given)
        if best is None or failure is None or len(found.nodes) > len(best.graph.nodes):
            best = TrainingRecord(found, given, failure)
        if failure is None:
            break
    assert best is not None, "the inputs themselves were tried"
    return best


def training_inputs(model: nn.Module, inputs: Any, sample: Sample | None) -> Iterator[Any]:
    """Yield inputs that the training mode of a model may take, the likeliest first.

    Args:
        model: The model.
        inputs: What its eval mode takes.
        sample: A batch with what should come out; None if there is none.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, x, y=None): ...
        >>> batch = Sample(0, torch.zeros(4, 2), torch.zeros(4))
        >>> [list(one) if isinstance(one, dict) else one.shape[0] for one in
        ...     training_inputs(Net(), torch.zeros(1, 2), batch)]
        [['x', 'y'], 1, 2]
    """
    named = None if sample is None or sample.target is None else _with_target(model, sample)
    if named is not None:
        yield named
    yield inputs
    given = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if all(leaf.dim() and len(leaf) == 1 for leaf in given):  # batch statistics need more than one number
        yield map_inputs(inputs, lambda leaf: torch.cat([leaf, leaf]))


def _with_target(model: nn.Module, sample: Sample) -> dict[str, Any] | None:
    """Inputs and target by the names that `forward` has for them; None where it takes no target."""
    args, kwargs = as_call(sample.inputs)
    try:
        signature = inspect.signature(model.forward)
        given = dict(signature.bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    free = [one.name for one in signature.parameters.values() if one.kind in kinds and one.name not in given]
    name = next((name for name in free if name in TARGETS), free[0] if free else None)
    return None if name is None else {**given, name: sample.target}


def used_parameters(graph: Graph) -> set[str]:
    """Names of the parameters that a record's operators read."""
    return {
        name
        for name, value in graph.tensors.items()
        if graph.readers[value] and graph.values[value].kind == "parameter"
    }


def unused_parameters(graph: Graph) -> set[str]:
    """Names of the parameters that no operator of a record reads."""
    named = {name for name, value in graph.tensors.items() if graph.values[value].kind == "parameter"}
    return named - used_parameters(graph)


def has_unused_parameters(graph: Graph) -> bool:
    """Whether some parameter is read by no operator of a record."""
    return bool(unused_parameters(graph))


def trains_alike(graph: Graph, trained: Graph) -> bool:
    """Whether two records call the same operators with the same numbers, in eval and in training mode."""
    ours, theirs = ([_call(node) for node in one.nodes if not _counts(one, node)] for one in (graph, trained))
    return ours == theirs and len(graph.outputs) == len(trained.outputs)


def _counts(graph: Graph, node: Node) -> bool:
    """Whether it is the counter of a batch norm."""
    held = node.args.get("self")
    return node.op == "aten.add_" and isinstance(held, Ref) and graph.values[held.value].kind == "buffer"


def _call(node: Node) -> tuple[str, str]:
    """An operator and its numbers, without those that switch noise or statistics."""
    kept = {name: arg for name, arg in node.args.items() if name not in ("train", "training")}
    return node.op, repr({name: arg for name, arg in kept.items() if _is_plain(arg)})


def _is_plain(arg: Any) -> bool:
    if isinstance(arg, tuple):
        return all(map(_is_plain, arg))
    return isinstance(arg, (bool, int, float, str, type(None)))


def without_noise(graph: Graph) -> Graph:
    """A record with its dropout off: a proof gives both models the same noise."""
    return replace(graph, nodes=tuple(map(_quiet, graph.nodes)))


def _quiet(node: Node) -> Node:
    if "dropout" not in node.op and "rrelu" not in node.op:
        return node
    off = {name: False for name in ("train", "training") if name in node.args}
    return replace(node, args={**node.args, **off})


def wired_in(groups: Groups, trained: Graph, where: str) -> dict[str, str]:
    """Find the groups that another run of a model treats otherwise than the recorded one does.

    Args:
        groups: The groups of the record.
        trained: Another record, such as of the training mode, possibly partial.
        where: Of what, as words: "in training mode".

    Returns:
        A reason by group name.
    """
    findings = solve(without_noise(trained))
    returned = {leaf for index in trained.outputs for dim in findings.dims[index] for leaf in leaves(dim)}
    readers = _readers(groups.graph, trained, findings)
    first: dict[Axis, Axis] = {}
    reasons: dict[str, str] = {}

    def note(ours: Expr, reason: str) -> None:
        for leaf in leaves(ours):
            if leaf in groups.name_of:
                reasons.setdefault(groups.name_of[leaf], reason)

    for ours, theirs, name in _pairs(groups, trained, findings):
        ours_leaves, theirs_leaves = leaves(ours), leaves(theirs)
        if [leaf.size for leaf in ours_leaves] != [leaf.size for leaf in theirs_leaves]:
            if any(leaf.reason for leaf in theirs_leaves) or _is_finer(ours, theirs):
                note(ours, f"split otherwise {where}, in {name}")
            continue
        for mine, other in zip(ours_leaves, theirs_leaves, strict=True):
            if first.setdefault(other, mine) is not mine:
                note(mine, f"read together with another group {where}, in {name}")
                note(first[other], f"read together with another group {where}, in {name}")
            if other in readers:
                note(mine, f"read by {readers[other]}, which only runs {where}")
            elif other in returned:
                note(mine, f"returned {where}, in {name}")
            elif other.reason is not None and mine.reason is None:
                note(mine, f"held {where}: {other.reason}")
    return reasons


def _pairs(groups: Groups, trained: Graph, findings: Findings) -> Iterator[tuple[Expr, Expr, str]]:
    """The dims of the parameters that both modes read."""
    for name in sorted(used_parameters(groups.graph) & used_parameters(trained)):
        value = trained.tensors[name]
        if trained.values[value].shape == groups.graph.values[groups.graph.tensors[name]].shape:
            for ours, theirs in zip(groups.dims(name), findings.dims[value], strict=True):
                yield resolve(ours), resolve(theirs), name


def _is_finer(ours: Expr, theirs: Expr) -> bool:
    """Whether training takes a dim apart that the eval mode leaves whole."""
    return len(parts_of(theirs)) > len(parts_of(ours))


def _readers(graph: Graph, trained: Graph, findings: Findings) -> dict[Axis, str]:
    """The parameters that training alone reads, by the axes that they hold."""
    names = sorted(used_parameters(trained) - used_parameters(graph))
    return {
        leaf: name for name in names for dim in findings.dims[trained.tensors[name]] for leaf in leaves(dim)
    }


def within_reach(groups: Groups, unread: set[str], visible: Visible) -> dict[str, str]:
    """Find the groups that parameters could read which no record reads.

    A module is given what the forward of the module around it can see: what that is given, computes itself,
    or gets from the modules right inside it. Of this, what has the size of one of the parameter's dims.

    Args:
        groups: The groups of the eval mode.
        unread: The parameters.
        visible: What each module's forward could see in the record of the eval mode.

    Returns:
        A reason by group name.
    """
    graph = groups.graph
    sizes: dict[str, dict[int, str]] = {}
    for name in sorted(unread):
        around = visible.around(name.rpartition(".")[0])
        shape = graph.values[graph.tensors[name]].shape
        for size in shape[:2] if len(shape) > 3 and shape[0] > 1 else shape:  # no kernels
            sizes.setdefault(around, {}).setdefault(size, name)
    reasons: dict[str, str] = {}
    for around, by_size in sizes.items():
        for value in visible.values.get(around, ()):
            shape = graph.values[value].shape
            for at, dim in enumerate(groups.findings.dims[value]):
                reader = by_size.get(shape[at]) or by_size.get(prod(shape[at:]))
                for leaf in leaves(dim) if reader and shape[at] > 1 else ():
                    if leaf in groups.name_of and leaf.reason is None:
                        reason = f"{reader}, which no recorded run reads, could read it"
                        reasons.setdefault(groups.name_of[leaf], reason)
    return reasons
