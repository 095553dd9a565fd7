"""`secateur report`: report on a run, or on several; render a saved report in another format."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import Answer
from secateur.reports.formats import formats, require_suffix, write_report
from secateur.reports.subjects import report_of


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="A folder that a command wrote, or a report's JSON file; several of them are compared.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: .html, .md, .txt or .json; without it, text is printed."),
    ] = None,
) -> Answer:
    """Report on a run, or compare several: as text, Markdown, JSON or one self-contained HTML file.

    Example: secateur report runs/dense runs/pruned --out comparison.html
    """
    if out is not None:
        require_suffix(out)
    found = report_of(runs)
    if out is None:
        return Answer({"report": formats["json"](found)}, formats["text"](found))
    written = write_report(found, out)
    return Answer({"wrote": str(written)}, f"wrote {written}")
