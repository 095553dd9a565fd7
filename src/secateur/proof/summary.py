"""What the passes of a proof say together."""

import math
from collections.abc import Iterator, Sequence

import torch

from secateur.graph.node import Graph
from secateur.proof.comparison import TOLERANCE, TOLERANCES
from secateur.proof.passes import Pass
from secateur.proof.verdict import Verdict


def sum_up(
    passes: Sequence[Pass],
    graph: Graph,
    dtype: torch.dtype | None,
    limits: Sequence[str],
    differences: tuple[str, ...],
) -> Verdict:
    """The verdict of some passes.

    Args:
        passes: All that were made; the first one compared the example.
        graph: The record of the original.
        dtype: The precision in which they ran; None for that of each tensor.
        limits: What could not be proven, as words.
        differences: Where the reference computes otherwise than the original, as words.
    """
    failed = next((done for done in passes if done.failure is not None), None)
    found = [done.comparison.worst for done in passes if done.comparison.worst is not None]
    worst = max(found, key=lambda one: one.share, default=None)
    if failed is not None and failed.comparison.difference is not None:
        worst = failed.comparison.difference
    failure = None if failed is None else failed.failure
    if failure is None and worst is None:
        failure = "no number could be compared: on these inputs every result is empty, or no real number"
    error = math.inf if worst is None or (failed is not None and worst.share <= 1) else worst.error
    return Verdict(
        relative_error=error,
        tolerance=TOLERANCE if worst is None else worst.tolerance,
        renormalised_by=differences,
        nodes=len(graph.nodes),
        failure=failure,
        limits=(*dict.fromkeys(limits), *_unseen(passes, graph, dtype)) if failure is None else tuple(limits),
        compared=len(passes[0].comparison.compared) if passes else 0,
        node=None if failed is None else failed.node,
        suspects=() if failed is None else failed.suspects,
    )


def silent(passes: Sequence[Pass]) -> frozenset[int]:
    """The operators that showed one number only in every pass."""
    found = [frozenset(done.comparison.silent) for done in passes]
    return frozenset.intersection(*found) if found else frozenset()


def _unseen(passes: Sequence[Pass], graph: Graph, dtype: torch.dtype | None) -> Iterator[str]:
    """What the passes could not compare, or only loosely, as words."""
    comparisons = [done.comparison for done in passes]
    if dtype == torch.float64:
        loose = next((one.loose for one in comparisons if one.loose is not None), None)
        if loose is not None:
            node, size = loose
            yield f"{node} computes in float{8 * size}: compared within {TOLERANCES[size]:.0e} from there"
    undefined = frozenset.intersection(*(frozenset(one.undefined) for one in comparisons))
    for indices, what in ((silent(passes), "made one number only"), (undefined, "made NaN")):
        if indices:
            first = graph.nodes[min(indices)] if min(indices) < len(graph.nodes) else "one"
            yield f"{len(indices)} operators {what} on random inputs, first {first}"
    for text in passes[0].outputs:
        if all(text in done.outputs for done in passes):
            yield text
