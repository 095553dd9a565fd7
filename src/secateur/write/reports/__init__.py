"""Report formats: one module each, which registers how it renders and under which suffix.

report --sections--> headings, sentences, tables --format--> text, Markdown, HTML
report ------------------------------------------> JSON
"""

from collections.abc import Callable
from pathlib import Path

from secateur.errors import RequestError
from secateur.registry import Registry
from secateur.write.atomic import atomic_write
from secateur.write.report import Report

formats: Registry[Callable[[Report], str]] = Registry("report format", "secateur.write.reports")
suffixes: Registry[Callable[[Report], str]] = Registry("report suffix", "secateur.write.reports")


def write_report(report: Report, path: Path) -> Path:
    """Write a report in the format that the suffix of the path names.

    Args:
        report: What to show.
        path: Where to; `.txt`, `.json`, `.md` or `.html`.

    Returns:
        The path that was written.

    Raises:
        RequestError: No format has this suffix.

    Example:
        >>> write_report(Report("VGG-11 on digits", "", "", ""), Path("report.pdf"))
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: cannot tell the format of report report.pdf from its suffix '.pdf'
          known: .html, .json, .md, .txt
          rename it to a known suffix
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise RequestError(
            f"cannot tell the format of report {path} from its suffix '{path.suffix}'",
            [f"known: {', '.join(suffixes)}"],
            "rename it to a known suffix",
        )
    atomic_write(path, suffixes[suffix](report).encode("utf-8", errors="backslashreplace"))
    return path
