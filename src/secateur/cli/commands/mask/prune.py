"""`secateur mask prune`: mask weights of a model and save it with its masks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from secateur.cli.commands.mask import verbs
from secateur.cli.options import (
    AsJson,
    Device,
    ModelArguments,
    ModelWord,
    Save,
    Seed,
    command_line,
    emit,
    model_arguments,
    open_placed,
    require_other_folder,
)
from secateur.errors import RequestError
from secateur.mask import prune as mask_weights
from secateur.mask import remove, report
from secateur.write.checkpoint import load_state, read_state, save_model


@verbs("prune")
def prune(
    model: ModelWord,
    save: Save,
    arg: ModelArguments = None,
    weights: Annotated[
        str | None, typer.Option(help="State dict to fill the architecture with: .safetensors, or .pth.")
    ] = None,
    method: Annotated[str, typer.Option(help="l1, l2, ln, random or identity.")] = "l1",
    amount: Annotated[float | None, typer.Option(help="Share, or count from 1 on, of what is left.")] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Share that is masked afterwards, instead of --amount.")
    ] = None,
    scope: Annotated[str, typer.Option(help="local, uniform, global, erk or lamp.")] = "local",
    structure: Annotated[
        str | None, typer.Option(help="unstructured, structured, row, 1x4, 16x16, 2:4, 4:8.")
    ] = None,
    dim: Annotated[int, typer.Option(help="Of structured: 0 are outputs, 1 inputs.")] = 0,
    select: Annotated[
        list[str] | None, typer.Option(help="Pattern of parameters or modules; may be repeated.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON: arguments of secateur.mask.prune, or a list of such objects.")
    ] = None,
    packed: Annotated[bool, typer.Option(help="Bake masks in and save only what is not zero.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Mask weights of a model and save it with its masks.

    Example: secateur mask prune zoo:vgg11 --method l1 --scope global --amount 0.2 --save runs/masked
    """
    require_other_folder(model, save)
    opened = open_placed(model, model_arguments(arg), seed, device)
    if weights is not None:
        load_state(opened.model, read_state(weights), weights)
    given = {
        "method": method,
        "amount": _count_or_share(amount),
        "sparsity": sparsity,
        "scope": scope,
        "structure": structure,
        "dim": dim,
        "select": select,
    }
    torch.manual_seed(seed)
    for step in [given] if config is None else read_config(config):
        mask_weights(opened.model, **step)
    plan = opened.plan.model_copy(update={"command": command_line()})
    if packed:
        remove(opened.model)
    folder = save_model(opened.model, plan, save, packed=packed)
    found = report(opened.model)
    emit({**found.to_json(), "saved": str(folder)}, f"{found}\nwrote {folder}", as_json=as_json)


def _count_or_share(amount: float | None) -> float | None:
    """On the command line 1 and more are counts; a share of 1.0 is written as --sparsity 1."""
    if amount is None or amount < 1:
        return amount
    if amount != int(amount):
        raise RequestError(f"--amount is {amount}", do="pass a share below 1, or a whole number of weights")
    return int(amount)


def read_config(path: Path) -> Sequence[Mapping[str, Any]]:
    """Read calls of `mask.prune` from JSON.

    Raises:
        RequestError: It is no JSON, or holds something else than objects.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RequestError(
            f"cannot read {path}: {error}", do='write JSON such as {"method": "l1", "amount": 0.2}'
        ) from error
    steps = found if isinstance(found, list) else [found]
    known = ["method", "amount", "sparsity", "scope", "structure", "dim", "n", "select", "parameters"]
    known += ["with_bias", "seed"]
    for step in steps:
        if not isinstance(step, dict):
            raise RequestError(f"{path} holds a {type(step).__name__}", do="write objects of arguments")
        unknown = [name for name in step if name not in known]
        if unknown:
            raise RequestError(
                f"{path} names '{unknown[0]}'", [f"known: {', '.join(known)}"], "mend or remove it"
            )
    return steps
