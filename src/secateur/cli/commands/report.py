"""`secateur report`: render a saved report in another format."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.app import commands
from secateur.cli.options import AsJson, emit
from secateur.write.reports import formats, write_report
from secateur.write.reports.json import read_report


@commands("report")
def report(
    source: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that secateur wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .html, .md, .txt or .json; none prints text.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render a report again, as text, Markdown, JSON or one self-contained HTML file.

    Example: secateur report demo/report.json --out report.md
    """
    found = read_report(source)
    if out is None:
        emit({"report": formats["json"](found)}, formats["text"](found), as_json=as_json)
        return
    written = write_report(found, out)
    emit({"wrote": str(written)}, f"wrote {written}", as_json=as_json)
