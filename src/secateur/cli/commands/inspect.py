"""`secateur inspect`: which channels of a model belong together, and what is protected and why."""

from typing import Annotated

import typer

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
from secateur.costs import cost_of
from secateur.pipeline import couple


@commands("inspect")
def inspect(
    model: ModelWord,
    arg: ModelArguments = None,
    input_shape: InputShape = None,
    protect: Annotated[
        list[str] | None, typer.Option(help="Module or parameter pattern to keep whole; may be repeated.")
    ] = None,
    axes: Annotated[
        str, typer.Option(help="Where two axes multiply (heads and widths), cut: heads, widths or both.")
    ] = "heads",
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show which channels belong together, and what is protected and why.

    Example: secateur inspect torchvision:resnet18 --protect 'layer4.*'
    """
    opened = open_placed(model, model_arguments(arg), seed, device)
    groups = couple(opened.model, example_input(input_shape, opened), protect or (), axes)
    cost = cost_of(opened.model, groups)
    numbers = {
        "model": model,
        "params": cost.params,
        "macs": cost.macs,
        "size_bytes": cost.size_bytes,
        "memory_bytes": cost.memory_bytes,
        "nodes": len(groups.graph.nodes),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "members": [str(member) for member in group.members],
                "prunable": group.is_prunable,
                "reason": group.reason,
                "renormalised": group.renormalised,
            }
            for group in groups
        ],
    }
    emit(numbers, f"{groups}\n{cost}", as_json=as_json)
