"""`secateur check`: prove a saved cut against the model it was cut from."""

import copy
import math
from pathlib import Path

import typer

from secateur.checking import check as prove_plan
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
from secateur.errors import CheckpointError, RequestError
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
    load_state(copy.deepcopy(apply_saved(plan, opened.model, pruned)), tensors, Path(pruned, WEIGHTS))
    verdict = prove_plan(opened.model, plan, example, seed=seed)
    numbers = {
        "verdict": verdict.status,
        "relative_error": verdict.relative_error if math.isfinite(verdict.relative_error) else None,
        "nodes": verdict.nodes,
        "compared": verdict.compared,
        "failure": verdict.failure,
        "limits": list(verdict.limits),
    }
    emit(numbers, str(verdict), as_json=as_json)
    if not verdict.passed:
        raise typer.Exit(1)
