"""`secateur bench`: how long a forward pass takes here."""

from dataclasses import asdict
from typing import Annotated

import typer

from secateur.capture.inputs import map_inputs
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
from secateur.costs import latency


@commands("bench")
def bench(
    model: ModelWord,
    arg: ModelArguments = None,
    input_shape: InputShape = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs per forward pass.")] = 1,
    repeats: Annotated[int, typer.Option(min=3, help="Timed passes.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Threads inside an operator.")] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time a model's forward pass: median and quartiles.

    Example: secateur bench runs/tuned --batch 16 --threads 2
    """
    opened = open_placed(model, model_arguments(arg), seed, device)
    example = example_input(input_shape, opened)
    inputs = map_inputs(example, lambda leaf: leaf[:1].expand(batch, *leaf.shape[1:]).contiguous())
    timing = latency(opened.model, inputs, repeats=repeats, threads=threads)
    emit(asdict(timing), str(timing), as_json=as_json)
