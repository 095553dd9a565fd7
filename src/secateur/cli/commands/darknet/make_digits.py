"""`secateur darknet make-digits`: write the bundled detection data set."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.options import AsJson, Seed, emit
from secateur.domains.darknet.data import make_digits


@verbs("make-digits")
def make(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; empty or new.")],
    images: Annotated[int, typer.Option(min=1, help="Training scenes.")] = 1000,
    valid: Annotated[int, typer.Option(min=0, help="Validation scenes.")] = 250,
    size: Annotated[int, typer.Option(help="Side of the scenes in pixels.")] = 96,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Write scenes of real handwritten digits as a Darknet data set: images, labels, lists, .names, .data.

    Example: secateur darknet make-digits digits --images 1000 --valid 250
    """
    made = make_digits(folder, images=images, valid=valid, size=size, seed=seed)
    emit({"data": str(made.data), "images": made.images, "boxes": made.boxes}, str(made), as_json=as_json)
