"""`secateur check`: prove a saved cut against the model it was cut from."""

import copy
from pathlib import Path
from typing import Any

import typer
from torch import nn

from secateur.capture.recorder import record
from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    Device,
    InputShape,
    ModelArguments,
    ModelWord,
    Seed,
    emit,
    example_input,
    model_arguments,
    open_placed,
)
from secateur.depth import check_dropped
from secateur.errors import CheckpointError, RequestError
from secateur.pipeline import couple
from secateur.plans.plan import Plan
from secateur.proof import Deviation, Verdict, compare_records, keep_masks, verify
from secateur.write.checkpoint import WEIGHTS, apply_saved, load_state, read_saved


@commands("check")
def check(
    dense: ModelWord,
    pruned: str = typer.Argument(metavar="PRUNED", help="Folder of the model that was cut from it."),
    arg: ModelArguments = None,
    input_shape: InputShape = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Prove by shape and by number that a saved plan cuts a model without changing what it computes.

    The plan is applied to the dense model's own weights, so it does not matter whether the pruned one was
    trained since; its own weights must belong to the plan.

    Example: secateur check runs/sparse runs/pruned
    """
    opened = open_placed(dense, model_arguments(arg), seed, device)
    saved, tensors = read_saved(pruned)
    plan = saved.model_copy(update={"previous": None})
    if not plan.groups and not plan.dropped:
        raise RequestError(f"{pruned} holds an uncut model", do="name a folder that `secateur prune` wrote")
    try:
        plan.require_fit(opened.model)
    except CheckpointError as error:
        do = "name the model that was given to `secateur prune`"
        raise CheckpointError(
            f"{pruned} was not cut from {dense}: {error.what}", error.context, do
        ) from error
    example = example_input(input_shape, opened)
    cut = apply_saved(plan, opened.model, pruned)
    load_state(copy.deepcopy(cut), tensors, Path(pruned, WEIGHTS))
    verdict, deviation, nodes = _prove(opened.model, cut, example, plan, seed)
    passed = verdict is not None and verdict.passed
    numbers = {
        "verdict": verdict.status if verdict else "failed",
        "relative_error": verdict.relative_error if verdict else None,
        "nodes": nodes,
        "deviation": str(deviation) if deviation else None,
    }
    emit(numbers, str(verdict or f"failed: {deviation}"), as_json=as_json)
    if not passed:
        raise typer.Exit(1)


def _prove(
    model: nn.Module, cut: nn.Module, example: Any, plan: Plan, seed: int
) -> tuple[Verdict | None, Deviation | None, int]:
    """The proof by number; where shapes already differ, where they do; the number of operators."""
    if plan.dropped:
        proof = check_dropped(model, example, plan, seed)
        return proof, None, proof.nodes
    groups = couple(model, example)
    cut_graph, failure = record(cut, example, groups.graph.substrate)
    counts = {axis: int(mask.sum()) for axis, mask in keep_masks(groups, plan).items()}
    deviation = compare_records(groups, counts, cut_graph, failure)
    verdict = verify(model, cut, example, groups, plan, seed) if deviation is None else None
    return verdict, deviation, len(groups.graph.nodes)
