"""`secateur check`: prove a saved cut against the model it was cut from."""

import typer

from secateur.capture.record import record
from secateur.check import compare_records, keep_masks, verify
from secateur.cli.app import commands
from secateur.cli.options import AsJson, InputShape, ModelWord, Seed, emit, example_input
from secateur.errors import RequestError
from secateur.pipeline import couple
from secateur.sources import open_model
from secateur.write.checkpoint import load_plan


@commands("check")
def check(
    dense: ModelWord,
    pruned: str = typer.Argument(metavar="PRUNED", help="Folder of the model that was cut from it."),
    input_shape: InputShape = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Prove by shape and by number that a saved plan cuts a model without changing what it computes.

    The plan is applied to the dense model's own weights, so it does not matter whether the pruned one was
    trained since.

    Example: secateur check runs/sparse runs/pruned
    """
    opened = open_model(dense)
    plan = load_plan(pruned).model_copy(update={"previous": None})
    if not plan.groups:
        raise RequestError(f"{pruned} holds an uncut model", do="name a folder that `secateur prune` wrote")
    example = example_input(input_shape, opened)
    groups = couple(opened.model, example)
    cut = plan.apply(opened.model)
    cut_graph, failure = record(cut, example, groups.graph.substrate)
    counts = {axis: int(mask.sum()) for axis, mask in keep_masks(groups, plan).items()}
    deviation = compare_records(groups, counts, cut_graph, failure)
    verdict = verify(opened.model, cut, example, groups, plan, seed)
    passed = verdict.passed and deviation is None
    numbers = {
        "verdict": verdict.status if passed else "failed",
        "relative_error": verdict.relative_error,
        "nodes": verdict.nodes,
        "deviation": str(deviation) if deviation else None,
    }
    emit(numbers, str(deviation or verdict), as_json=as_json)
    if not passed:
        raise typer.Exit(1)
