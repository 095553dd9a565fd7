"""`secateur export`: write a model as a file of another program, which must compute the same."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.flatten import Without
from secateur.cli.options import ComputeOptions, ExampleOptions, ModelOptions
from secateur.cli.terminal import Answer, detail
from secateur.exports import export as run_export
from secateur.rich import Console


@dataclass(frozen=True)
class ExportOptions:
    """What is written.

    Attributes:
        format: Format of OUT; default: the one that its suffix names.
        dynamic: Leave the batch open, and image sizes and lengths where the model takes others.
        fold: Fold batch norms into the layers before them; the notes say which stay, and why.
        overwrite: Replace what is there.
    """

    format: str | None = None
    dynamic: bool = True
    fold: bool = False
    overwrite: bool = False


def export(
    model: ModelOptions,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, or folder for some formats.")],
    example: ExampleOptions,
    file: ExportOptions,
    place: Annotated[ComputeOptions, Without("device")],
) -> Answer:
    """Write a model as a file of another program, which reads it back and must compute the same.

    Formats: onnx, pt2, torchscript, state-dict, and those of domains, such as darknet. The program opens the
    file in a process without secateur; its outputs are compared with the model's at two sizes of input.

    Example: secateur export runs/tuned tuned.onnx
    """
    opened = model.open(place.seed)
    with Console(stderr=True).status("") as status:

        def tell(step: str) -> None:
            status.update(step)
            detail(step)

        made = run_export(
            opened.model,
            out,
            format=file.format,
            example_inputs=example.of(opened),
            overwrite=file.overwrite,
            dynamic=file.dynamic,
            fold=file.fold,
            plan=opened.plan,
            tell=tell,
        )
    numbers = {**asdict(made), "path": str(made.path), "errors": dict(made.errors)}
    return Answer(numbers, "\n".join([*(f"note: {note}" for note in made.notes), str(made)]))
