"""One run of secateur: capture, couple, prune with generic settings, and what was protected."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.coupling import Groups, couple_graph
from secateur.coupling.rule import rules
from secateur.errors import CheckError, SecateurError
from secateur.graph.node import Graph

REASONS_SHOWN = 6
REASON_LENGTH = 240


def uncovered(graph: Graph) -> Counter[str]:
    """The operators of a record that no rule covers, with the number of calls."""
    return Counter(
        node.op
        for node in graph.nodes
        if node.op not in rules and node.op.removesuffix("_") not in rules and not node.is_pointwise
    )


def protections(groups: Groups) -> list[dict[str, Any]]:
    """Why groups are protected: the most frequent reasons, and how many groups each holds."""
    held: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for group in groups:
        if group.reason is not None:
            kind = re.sub(r"\(node \d+\)|\d+", "#", group.reason.partition(" in ")[0])[:REASON_LENGTH]
            held[kind] += 1
            examples.setdefault(kind, group.reason)
    return [
        {"groups": count, "reason": examples[kind][:REASON_LENGTH]}
        for kind, count in held.most_common(REASONS_SHOWN)
    ]


def run(model: nn.Module, example_inputs: Any) -> Iterator[dict[str, Any]]:
    """Analyse and prune; yields what is known after each phase, and the pruned model at last.

    An error that secateur raises on purpose is a result: "wrong" when its own check found a wrong cut, else
    "refused".
    """
    start = time.process_time()
    try:
        yield _analyse(model, example_inputs)
        start = time.process_time()
        yield {**_prune(model, example_inputs), "prune_cpu_seconds": _since(start)}
    except SecateurError as error:
        yield {
            "verdict": "wrong" if isinstance(error, CheckError) else "refused",
            "error": f"{type(error).__name__}: {error}",
            "prune_cpu_seconds": _since(start),
        }


def _analyse(model: nn.Module, example_inputs: Any) -> dict[str, Any]:
    start = time.process_time()
    graph = capture(model, example_inputs)
    captured = _since(start)
    groups = couple_graph(graph)
    done = _since(start)
    return {
        "captured": graph.substrate,
        "nodes": len(graph.nodes),
        "groups": len(groups),
        "free": len(groups.prunable),
        "protected": len(groups) - len(groups.prunable),
        "uncovered": dict(uncovered(graph)),
        "protections": protections(groups),
        "capture_cpu_seconds": captured,
        "analyse_cpu_seconds": done,
    }


def _prune(model: nn.Module, example_inputs: Any) -> dict[str, Any]:
    result = sc.prune(model, example_inputs, ratio=0.5, scope="global", criterion="l2", check=True, seed=0)
    verdict = result.verdict
    assert verdict is not None, "a check was asked for"
    return {
        "verdict": verdict.status,
        "relative_error": verdict.relative_error,
        "params_before": result.before.params,
        "params_after": result.after.params,
        "share_left": round(result.after.params / result.before.params, 4),
        "free": len(result.groups.prunable),
        "protected": len(result.groups) - len(result.groups.prunable),
        "protections": protections(result.groups),
        "corrections": len(result.plan.corrections),
        "limits": list(verdict.limits),
        "model": result.model,
    }


def _since(start: float) -> float:
    return round(time.process_time() - start, 4)
