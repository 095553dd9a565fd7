"""`secateur darknet make-digits`: write the bundled detection data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.flatten import Without
from secateur.cli.options import ComputeOptions
from secateur.cli.terminal import Answer
from secateur.domains.darknet.data import make_digits as make


@dataclass(frozen=True)
class DigitsOptions:
    """What is drawn.

    Attributes:
        images: Training scenes.
        valid: Validation scenes.
        size: Side of the scenes in pixels.
    """

    images: Annotated[int, typer.Option(min=1)] = 1000
    valid: Annotated[int, typer.Option(min=0)] = 250
    size: int = 96


def make_digits(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; empty or new.")],
    drawn: DigitsOptions,
    place: Annotated[ComputeOptions, Without("device")],
) -> Answer:
    """Write scenes of real handwritten digits as a Darknet data set: images, labels, lists, .names, .data.

    Example: secateur darknet make-digits digits --images 1000 --valid 250
    """
    made = make(folder, **vars(drawn), seed=place.seed)
    return Answer({"data": str(made.data), "images": made.images, "boxes": made.boxes}, str(made))
