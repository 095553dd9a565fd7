"""`secateur darknet convert`: a data set of another format as Darknet's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import Answer
from secateur.domains.darknet.data import convert as convert_data
from secateur.domains.darknet.names import read_names


@dataclass(frozen=True)
class ConvertOptions:
    """How a data set is read and written.

    Attributes:
        format: Format of SOURCE: coco, voc, oxford-hand or yolo.
        names: A .names file: the classes to take, in this order; default: all.
        copy: Copy the images; else they are linked.
        keep_ignored: Write difficult and crowd boxes too.
        lenient: Leave out labels that do not fit, and list them.
    """

    format: str
    names: Path | None = None
    copy: bool = False
    keep_ignored: bool = False
    lenient: bool = False


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The data set: a .json file or a folder, by its format.")
    ],
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; empty or new.")],
    conversion: ConvertOptions,
) -> Answer:
    """Write a data set as Darknet reads it: label files, lists, .names and .data.

    Example: secateur darknet convert hand_dataset hands --format oxford-hand
    """
    made = convert_data(
        source,
        conversion.format,
        to,
        names=tuple(read_names(conversion.names)) if conversion.names else None,
        images="copy" if conversion.copy else "link",
        keep_ignored=conversion.keep_ignored,
        strict=not conversion.lenient,
    )
    numbers = {
        "data": str(made.data),
        "images": made.images,
        "boxes": made.boxes,
        "dropped": made.dropped,
        "missing": list(made.missing),
        "problems": [str(problem) for problem in made.problems],
    }
    return Answer(numbers, str(made))
