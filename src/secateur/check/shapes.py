"""The proof by shape: walk the records of the original and the cut model side by side.

Every node must be the same operator, every dim of its outputs exactly the size that the plan predicts, every
scalar argument unchanged unless it is such a size. The first deviation names the node, the source line, the
argument and the axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from secateur.couple import Groups
from secateur.cut import predict
from secateur.graph.axes import Axis, Expr, leaves
from secateur.graph.keep import count
from secateur.graph.node import Graph, Node, Path, literals_in, refs_in


@dataclass(frozen=True)
class Deviation:
    """Where a cut model first does something else than predicted.

    Attributes:
        node: The original's call; None if the cut model makes more calls.
        what: What differs, with both values.
        suspects: The cut axes that the call depends on.
    """

    node: Node | None
    what: str
    suspects: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"{self.what}: {self.node}" if self.node else self.what


def compare_records(
    groups: Groups, kept: Mapping[Axis, int], cut: Graph, failure: Exception | None = None
) -> Deviation | None:
    """Compare the record of a cut model with what the groups predict.

    Args:
        groups: The groups of the original.
        kept: How many positions of each axis stay.
        cut: The record of the cut model, partial if it failed.
        failure: What the cut model failed with.

    Returns:
        The first deviation; None if every node is as predicted.
    """
    changed = {held: left for held, left in kept.items() if left < held.size}
    for node, other in zip_longest(groups.graph.nodes, cut.nodes):
        if node is None:
            return Deviation(None, f"the cut model goes on with {other.op}", tuple(changed))
        if other is None:
            what = f"the cut model stops: {type(failure).__name__}: {failure}".split("\n")[0]
            return Deviation(node, what, _suspects(groups, node, changed))
        deviation = _compare(groups, changed, node, other, cut)
        if deviation is not None:
            return deviation
    if failure is not None:
        return Deviation(None, f"the cut model fails: {failure}", tuple(changed))
    return None


def scalars_that_differ(groups: Groups, cut: Graph) -> dict[tuple[int, Path], tuple[float, float]]:
    """Find the numbers that a cut model computes from a size: the attention scale is one.

    Args:
        groups: The groups of the original.
        cut: The record of the cut model, partial if it failed.

    Returns:
        By node index and argument path: the number before and after, where no dim's size was expected.
    """
    found: dict[tuple[int, Path], tuple[Any, Any]] = {}
    for node, other in zip(groups.graph.nodes, cut.nodes, strict=False):
        if node.op != other.op:
            break
        theirs = dict(item for name, arg in other.args.items() for item in literals_in(arg, (name,)))
        for path, value in (item for name, arg in node.args.items() for item in literals_in(arg, (name,))):
            got = theirs.get(path)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            is_bound = (node.index, path) in groups.findings.literals
            if is_number and not is_bound and got != value and type(got) is type(value):
                found[node.index, path] = (value, got)
    return found


def _compare(
    groups: Groups, changed: Mapping[Axis, int], node: Node, other: Node, cut: Graph
) -> Deviation | None:
    if node.op != other.op:
        return Deviation(node, f"the cut model calls {other.op}", _suspects(groups, node, changed))
    literals = groups.findings.literals
    theirs = dict(item for name, arg in other.args.items() for item in literals_in(arg, (name,)))
    ours = dict(item for name, arg in node.args.items() for item in literals_in(arg, (name,)))
    for path, value in ours.items():
        expr = literals.get((node.index, path))
        predicted: Any = value if expr is None else predict(expr, value, changed)
        if theirs.get(path) != predicted:
            what = f"argument {'.'.join(map(str, path))} is {theirs.get(path)} where {predicted} is predicted"
            suspects = _cut_leaves([expr], changed) if expr is not None else ()
            return Deviation(node, what, suspects or _suspects(groups, node, changed))
    for ref, got in zip(node.outputs, other.outputs, strict=True):
        if ref is None or got is None:
            continue
        dims = groups.findings.dims[ref.value]
        shape = tuple(count(dim, changed) for dim in dims)
        if shape != cut.values[got.value].shape:
            what = f"shape is {list(cut.values[got.value].shape)} where {list(shape)} is predicted"
            return Deviation(node, what, _suspects(groups, node, changed))
    return None


def _cut_leaves(exprs: list[Expr], changed: Mapping[Axis, int]) -> tuple[Axis, ...]:
    return tuple(dict.fromkeys(leaf for expr in exprs for leaf in leaves(expr) if leaf in changed))


def _suspects(groups: Groups, node: Node, changed: Mapping[Axis, int]) -> tuple[Axis, ...]:
    """The cut axes that a call depends on, the nearest that there are.

    Those behind its integers; else those of its operands and outputs; else, as its integers were computed
    from some size read before, those of the last call that touched a cut axis.
    """
    literals = groups.findings.literals
    behind = [
        literals[node.index, path]
        for name, arg in node.args.items()
        for path, _ in literals_in(arg, (name,))
        if (node.index, path) in literals
    ]
    found = _cut_leaves(behind, changed)
    for earlier in reversed(groups.graph.nodes[: node.index + 1]):
        if found:
            break
        refs = [ref for arg in earlier.args.values() for ref in refs_in(arg)]
        refs += [ref for ref in earlier.outputs if ref is not None]
        found = _cut_leaves([dim for ref in refs for dim in groups.findings.dims[ref.value]], changed)
    return found or tuple(changed)
