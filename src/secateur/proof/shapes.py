"""The proof by shape: walk the records of the original and the cut model side by side.

Every node must be the same operator, every dim of its outputs exactly the size that the plan predicts, every
scalar argument unchanged unless it is such a size. The first deviation names the node, the source line, the
argument and the axes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.capture.follower import DENSE
from secateur.coupling import Groups
from secateur.cut import INFERRING, predict
from secateur.graph.axes import Axis, Expr, leaves
from secateur.graph.keep import Kept
from secateur.graph.node import Graph, Node, Path, refs_in, scalars_in
from secateur.proof.varying import NOTHING_VARIES, Varying


@dataclass(frozen=True)
class Deviation:
    """Where a cut model first does something else than predicted.

    Attributes:
        node: The original's call; None if the cut model makes more calls.
        what: What differs, with both values.
        suspects: The cut axes that the call depends on.
        is_other_path: It makes other calls, rather than calls with other sizes.
    """

    node: Node | None
    what: str
    suspects: tuple[Axis, ...]
    is_other_path: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.node}" if self.node else self.what


def compare_records(
    groups: Groups,
    kept: Kept,
    cut: Graph,
    failure: Exception | None = None,
    varying: Varying = NOTHING_VARIES,
) -> Deviation | None:
    """Compare the record of a cut model with what the groups predict.

    Args:
        groups: The groups of the original.
        kept: What stays of each axis.
        cut: The record of the cut model, partial if it failed.
        failure: What the cut model failed with.
        varying: What depends on numbers in the original already, and is passed over.

    Returns:
        The first deviation; None if every node is as predicted.
    """
    for node, other in pairs(groups.graph.nodes, cut.nodes):
        if node is None:
            assert other is not None, "one of the two goes on"
            return Deviation(None, f"the cut model goes on with {other.op}", tuple(kept.changed), True)
        if other is None:
            what = f"the cut model stops: {type(failure).__name__}: {failure}".split("\n")[0]
            return Deviation(node, what, suspects_of(groups, node, kept))
        deviation = _compare(groups, kept, node, other, cut, varying)
        if deviation is not None:
            return deviation
    if failure is not None:
        return Deviation(None, f"the cut model fails: {failure}", tuple(kept.changed))
    return None


def pairs(nodes: Sequence[Node], others: Sequence[Node]) -> Iterator[tuple[Node | None, Node | None]]:
    """The calls of two records beside each other.

    PyTorch does not call what would bring the numbers of a tensor into a row if they lie in one, and where
    they lie says nothing of what is computed: such a call has no partner where the other record lacks it.
    """
    at = beside = 0
    while at < len(nodes) or beside < len(others):
        node = nodes[at] if at < len(nodes) else None
        other = others[beside] if beside < len(others) else None
        is_dense, is_other_dense = (one is not None and one.op == DENSE for one in (node, other))
        if is_dense == is_other_dense:
            yield node, other
        at += is_dense or not is_other_dense
        beside += is_other_dense or not is_dense


def scalars_that_differ(
    groups: Groups, cut: Graph, varying: Varying = NOTHING_VARIES
) -> dict[tuple[int, Path], tuple[float, float]]:
    """Find the numbers that a cut model computes from a size: the attention scale is one.

    Args:
        groups: The groups of the original.
        cut: The record of the cut model, partial if it failed.
        varying: What depends on numbers, too.

    Returns:
        By node index and argument path: the number before and after, where no dim's size was expected.
    """
    found: dict[tuple[int, Path], tuple[Any, Any]] = {}
    for node, other in pairs(groups.graph.nodes, cut.nodes):
        if node is None or other is None or node.op != other.op:
            break
        theirs = scalars_in(other)
        for path, value in scalars_in(node).items():
            key, got = (node.index, path), theirs.get(path)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            is_expected = key in groups.findings.literals or key in varying.literals
            if is_number and not is_expected and got != value and type(got) is type(value):
                found[key] = (value, got)
    return found


def _compare(
    groups: Groups, kept: Kept, node: Node, other: Node, cut: Graph, varying: Varying
) -> Deviation | None:
    if node.op != other.op:
        return Deviation(node, f"the cut model calls {other.op}", suspects_of(groups, node, kept), True)
    literals = groups.findings.literals
    theirs = scalars_in(other)
    for path, value in scalars_in(node).items():
        if (node.index, path) in varying.literals:
            continue
        expr = literals.get((node.index, path))
        predicted: Any = value if expr is None else predict(expr, value, kept)
        is_inferred = theirs.get(path) == -1 and node.op in INFERRING  # its shape is compared below
        if theirs.get(path) != predicted and not is_inferred:
            what = f"argument {'.'.join(map(str, path))} is {theirs.get(path)} where {predicted} is predicted"
            suspects = _cut_leaves([expr], kept) if expr is not None else ()
            return Deviation(node, what, suspects or suspects_of(groups, node, kept))
    if len(node.outputs) != len(other.outputs) and node.index not in varying.counts:
        what = f"{len(other.outputs)} results where {len(node.outputs)} are predicted"
        return Deviation(node, what, suspects_of(groups, node, kept))
    for ref, got in zip(node.outputs, other.outputs, strict=False):
        if ref is None or got is None:
            continue
        dims = groups.findings.dims[ref.value]
        shape = tuple(kept.count(dim) for dim in dims)
        after = cut.values[got.value].shape
        if len(shape) != len(after) or any(
            one != two and (ref.value, at) not in varying.sizes
            for at, (one, two) in enumerate(zip(shape, after, strict=True))
        ):
            what = f"shape is {list(cut.values[got.value].shape)} where {list(shape)} is predicted"
            return Deviation(node, what, suspects_of(groups, node, kept))
    return None


def _cut_leaves(exprs: list[Expr], kept: Kept) -> tuple[Axis, ...]:
    return tuple(dict.fromkeys(leaf for expr in exprs for leaf in leaves(expr) if leaf in kept.changed))


def suspects_of(groups: Groups, node: Node, kept: Kept) -> tuple[Axis, ...]:
    """The cut axes that a call depends on, the nearest that there are.

    Those behind its integers; else those of its operands and outputs; else, as its integers were computed
    from some size read before, those of the last call that touched a cut axis.
    """
    literals = groups.findings.literals
    behind = [literals[node.index, path] for path in scalars_in(node) if (node.index, path) in literals]
    found = _cut_leaves(behind, kept)
    for earlier in reversed(groups.graph.nodes[: node.index + 1]):
        if found:
            break
        refs = [ref for arg in earlier.args.values() for ref in refs_in(arg)]
        refs += [ref for ref in earlier.outputs if ref is not None]
        found = _cut_leaves([dim for ref in refs for dim in groups.findings.dims[ref.value]], kept)
    return found or tuple(kept.changed)
