"""`secateur mask prune`: mask weights of a model and save it with its masks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from secateur.cli.options import ComputeOptions, TargetOptions, WeightedModelOptions
from secateur.cli.terminal import Answer, command_line
from secateur.errors import RequestError
from secateur.mask import prune as mask_weights
from secateur.mask import remove, report
from secateur.write.checkpoint import save_model


@dataclass(frozen=True)
class MaskOptions:
    """What is masked.

    Attributes:
        method: l1, l2, ln, random or identity.
        amount: Share, or count from 1 on, of what is left.
        sparsity: Share that is masked afterwards, instead of --amount.
        scope: local, uniform, global, erk or lamp.
        structure: unstructured, structured, row, 1x4, 16x16, 2:4, 4:8.
        dim: For structured: 0 are outputs, 1 inputs.
        select: Pattern of parameters or modules; may be repeated.
    """

    method: str = "l1"
    amount: float | None = None
    sparsity: float | None = None
    scope: str = "local"
    structure: str | None = None
    dim: int = 0
    select: tuple[str, ...] = ()

    def words(self) -> dict[str, Any]:
        """As `secateur.mask.prune` takes them."""
        return {**vars(self), "amount": _count_or_share(self.amount), "select": list(self.select) or None}


def prune(
    model: WeightedModelOptions,
    target: TargetOptions,
    masking: MaskOptions,
    place: ComputeOptions,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON: arguments of secateur.mask.prune, or a list of such objects."),
    ] = None,
    packed: Annotated[
        bool, typer.Option("--packed/--no-packed", help="Bake masks in and save only what is not zero.")
    ] = False,
) -> Answer:
    """Mask weights of a model and save it with its masks.

    Example: secateur mask prune zoo:vgg11 --method l1 --scope global --amount 0.2 --save runs/masked
    """
    target.require_free(model.model)
    opened = model.open(place.seed, place.device)
    torch.manual_seed(place.seed)
    for step in [masking.words()] if config is None else read_config(config):
        mask_weights(opened.model, **step)
    plan = opened.plan.model_copy(update={"command": command_line()})
    if packed:
        remove(opened.model)
    folder = save_model(opened.model, plan, target.save, packed=packed)
    found = report(opened.model)
    return Answer({**found.to_json(), "saved": str(folder)}, f"{found}\nwrote {folder}")


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
