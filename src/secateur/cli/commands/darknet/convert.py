"""`secateur darknet convert`: a data set of another format as Darknet's."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.options import AsJson, emit
from secateur.domains.darknet.data import convert as convert_data
from secateur.domains.darknet.names import read_names


@verbs("convert")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The data set: a .json file or a folder, by its format.")
    ],
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; empty or new.")],
    format: Annotated[str, typer.Option("--format", help="Of SOURCE: coco, voc, oxford-hand or yolo.")],
    names: Annotated[
        Path | None, typer.Option(help="A .names file: the classes to take, in this order; all if absent.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images; else they are linked.")] = False,
    keep_ignored: Annotated[
        bool, typer.Option("--keep-ignored", help="Write difficult and crowd boxes too.")
    ] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Leave out labels that do not fit, and list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a data set as Darknet reads it: label files, lists, .names and .data.

    Example: secateur darknet convert hand_dataset hands --format oxford-hand
    """
    made = convert_data(
        source,
        format,
        to,
        names=tuple(read_names(names)) if names else None,
        images="copy" if copy else "link",
        keep_ignored=keep_ignored,
        strict=not lenient,
    )
    numbers = {
        "data": str(made.data),
        "images": made.images,
        "boxes": made.boxes,
        "dropped": made.dropped,
        "missing": list(made.missing),
        "problems": [str(problem) for problem in made.problems],
    }
    emit(numbers, str(made), as_json=as_json)
