"""`secateur drop`: drop residual blocks of a model, prove it, save it."""

from typing import Annotated

import torch
import typer

from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    Device,
    InputShape,
    ModelArguments,
    ModelWord,
    Save,
    Seed,
    command_line,
    emit,
    example_input,
    model_arguments,
    open_placed,
    require_other_folder,
)
from secateur.depth import drop_blocks
from secateur.errors import RequestError
from secateur.train.checkpoint import last_folder
from secateur.write.checkpoint import load_state, read_state, save_model


@commands("drop")
def drop(
    model: ModelWord,
    save: Save,
    arg: ModelArguments = None,
    weights: Annotated[
        str | None, typer.Option(help="State dict to fill the architecture with: .safetensors, or .pth.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many blocks to drop.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the blocks to drop instead.")] = None,
    blocks: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of modules to choose from, 'layer3.*'; may be repeated."),
    ] = None,
    criterion: Annotated[str, typer.Option(help="bn-scale, l1, l2 or random.")] = "l2",
    protect: Annotated[
        list[str] | None, typer.Option(help="Pattern of blocks that stay; may be repeated.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Prove what the dropped model computes.")] = True,
    input_shape: InputShape = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Drop the least important residual blocks of a model, prove the result and save it.

    Example: secateur drop torchvision:resnet50 --weights resnet50.pth --count 4 --save runs/shallow
    """
    require_other_folder(model, save)
    if last_folder(save) is not None:
        raise RequestError(
            f"{save} holds a training run", do="name another folder: its weights would be lost"
        )
    torch.manual_seed(seed)  # fresh weights are drawn
    opened = open_placed(model, model_arguments(arg), seed, device)
    if weights is not None:
        load_state(opened.model, read_state(weights), weights)
    result = drop_blocks(
        opened.model,
        example_input(input_shape, opened),
        count=count,
        ratio=ratio,
        blocks=blocks,
        criterion=criterion,
        protect=protect or (),
        check=check,
        seed=seed,
    )
    plan = result.plan.after(opened.plan).model_copy(update={"command": command_line()})
    folder = save_model(result.model, plan, save)
    verdict = result.verdict
    numbers = {
        "requested": str(plan.requested),
        "dropped": list(plan.dropped),
        "scores": dict(result.scores),
        "before": vars(result.before),
        "after": vars(result.after),
        "verdict": verdict.status if verdict else None,
        "relative_error": verdict.relative_error if verdict else None,
        "left_alone": dict(result.reasons),
        "saved": str(folder),
    }
    emit(numbers, f"{result}\nwrote {folder}", as_json=as_json)
