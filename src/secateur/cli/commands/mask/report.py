"""`secateur mask report`: how sparse a model is."""

from typing import Annotated

import typer

from secateur.cli.commands.mask import verbs
from secateur.cli.options import AsJson, ModelArguments, ModelWord, emit, model_arguments, open_placed
from secateur.mask import histogram
from secateur.mask import report as sparsity_report


@verbs("report")
def report(
    model: ModelWord,
    arg: ModelArguments = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Pattern of parameters or modules; may be repeated.")
    ] = None,
    bins: Annotated[int, typer.Option(min=1, help="Intervals of the histogram.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Tell how sparse each tensor of a model is, and how the other weights are spread.

    Example: secateur mask report runs/masked
    """
    opened = open_placed(model, model_arguments(arg), 0, "cpu")
    found = sparsity_report(opened.model, select)
    bars = histogram(opened.model, bins, select)
    most = max((count for _, _, count in bars), default=1)
    lines = [
        f"{low:>9.3f} to {high:>7.3f}  {count:>12,}  {'#' * round(40 * count / most)}".rstrip()
        for low, high, count in bars
    ]
    text = "\n".join([str(found), "", "weights that are not zero", *lines])
    emit({**found.to_json(), "histogram": bars}, text, as_json=as_json)
