"""Report formats: one module each, which registers how it renders and under which suffix."""

from collections.abc import Callable
from pathlib import Path

from secateur.errors import RequestError
from secateur.registry import Registry
from secateur.reports.content import Report
from secateur.write.atomic import atomic_write

formats: Registry[Callable[[Report], str]] = Registry("report format", "secateur.reports.formats")
suffixes: Registry[Callable[[Report], str]] = Registry("report suffix", "secateur.reports.formats")


def require_suffix(path: Path) -> None:
    """Refuse a path whose suffix no format has, before the work that is to be reported.

    Raises:
        RequestError: No format has this suffix.

    Example:
        >>> require_suffix(Path("report.pdf"))
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: cannot tell the format of report report.pdf from its suffix '.pdf'
          known: .html, .json, .md, .txt
          rename it to a known suffix
    """
    if path.suffix.lower() not in suffixes:
        raise RequestError(
            f"cannot tell the format of report {path} from its suffix '{path.suffix}'",
            [f"known: {', '.join(suffixes)}"],
            "rename it to a known suffix",
        )


def write_report(report: Report, path: Path) -> Path:
    """Write a report in the format that the suffix of the path names: `.txt`, `.json`, `.md` or `.html`.

    Raises:
        RequestError: No format has this suffix.
    """
    require_suffix(path)
    text = suffixes[path.suffix.lower()](report)
    atomic_write(path, text.encode("utf-8", errors="backslashreplace"))
    return path
