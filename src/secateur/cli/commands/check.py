"""`secateur check`: prove a saved cut against the model it was cut from."""

import copy
import math
from pathlib import Path
from typing import Annotated

import typer

from secateur.checking import check as prove_plan
from secateur.cli.options import ComputeOptions, ModelOptions, OutputOptions
from secateur.cli.terminal import Answer
from secateur.errors import CheckpointError, RequestError
from secateur.write.checkpoint import WEIGHTS, apply_saved, load_state, read_saved


def check(
    dense: ModelOptions,
    pruned: Annotated[
        str, typer.Argument(metavar="PRUNED", help="Folder of the model that was cut from it.")
    ],
    outputs: OutputOptions,
    place: ComputeOptions,
) -> Answer:
    """Prove by shape and by number that a saved plan cuts a model without changing what it computes.

    The plan is applied to the dense model's own weights, so it does not matter whether the pruned one was
    trained since; its own weights must belong to the plan.

    Example: secateur check runs/sparse runs/pruned
    """
    opened = dense.open(place.seed, place.device)
    saved, tensors = read_saved(pruned)
    plan = saved.rest_for(opened.model)
    if not plan.changes_model:
        raise RequestError(f"{pruned} holds an uncut model", do="name a folder that `secateur prune` wrote")
    try:
        plan.first.require_fit(opened.model)
    except CheckpointError as error:
        do = "name the model that was given to `secateur prune`"
        raise CheckpointError(
            f"{pruned} was not cut from {dense.model}: {error.what}", error.context, do
        ) from error
    example = outputs.of(opened)
    load_state(copy.deepcopy(apply_saved(plan, opened.model, pruned)), tensors, Path(pruned, WEIGHTS))
    verdict = prove_plan(opened.model, plan, example, outputs=outputs.outputs or None, seed=place.seed)
    numbers = {
        "verdict": verdict.status,
        "relative_error": verdict.relative_error if math.isfinite(verdict.relative_error) else None,
        "nodes": verdict.nodes,
        "compared": verdict.compared,
        "failure": verdict.failure,
        "limits": list(verdict.limits),
    }
    return Answer(numbers, str(verdict), failed=not verdict.passed)
