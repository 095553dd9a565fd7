"""`secateur mask report`: how sparse a model is."""

from dataclasses import dataclass
from typing import Annotated

import typer

from secateur.cli.options import ModelOptions
from secateur.cli.terminal import Answer
from secateur.mask import histogram
from secateur.mask import report as sparsity_report


@dataclass(frozen=True)
class MaskReportOptions:
    """What is told.

    Attributes:
        select: Pattern of parameters or modules; may be repeated.
        bins: Intervals of the histogram.
    """

    select: tuple[str, ...] = ()
    bins: Annotated[int, typer.Option(min=1)] = 12


def report(model: ModelOptions, shown: MaskReportOptions) -> Answer:
    """Tell how sparse each tensor of a model is, and how the other weights are spread.

    Example: secateur mask report runs/masked
    """
    opened = model.open(seed=0)
    found = sparsity_report(opened.model, shown.select or None)
    bars = histogram(opened.model, shown.bins, shown.select or None)
    most = max((count for _, _, count in bars), default=1)
    lines = [
        f"{low:>9.3f} to {high:>7.3f}  {count:>12,}  {'#' * round(40 * count / most)}".rstrip()
        for low, high, count in bars
    ]
    text = "\n".join([str(found), "", "weights that are not zero", *lines])
    return Answer({**found.to_json(), "histogram": bars}, text)
