"""Subjects: one module for each kind of thing that a report can be of.

A subject is asked for a Python object or for a folder, and answers with a report of what it knows of it, or
with None. A folder may be several things at once, such as a saved model and its training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secateur.errors import RequestError
from secateur.reports.comparison import compare
from secateur.reports.content import ModelRow, Report
from secateur.reports.formats import require_suffix, write_report
from secateur.reports.formats.json import read_report
from secateur.reports.subject import Folder, registered
from secateur.sources.open import split_word
from secateur.train.task import tasks

SAVED = "report.json"
"""The report that a run left in its own folder."""


def report(thing: Any, path: Path | str | None = None, *, title: str = "") -> Report:
    """Report on a result, a run, a folder, or on several of them, which are then compared.

    Args:
        thing: What `prune`, `iterate`, a training or a sweep returned; a plan; a folder that a command wrote;
            a report or its JSON file; or a list of those, or a mapping of names to them, to compare.
        path: A `.html`, `.md`, `.txt` or `.json` file to write; None writes nothing.
        title: Headline; empty for one of its own.

    Returns:
        The report, as data.

    Raises:
        RequestError: There is nothing in it to report, or no format has the path's suffix.

    Example:
        >>> import torch, secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> print(sc.report(sc.prune(model, torch.zeros(1, 4), macs=0.5)))
        report 'Sequential, pruned' with achieved_ratio, stages, layers, groups, verdict, more
    """
    if path is not None:
        require_suffix(Path(path))
    made = report_of(thing)
    made = replace(made, title=title) if title else made
    if path is not None:
        write_report(made, Path(path))
    return made


def report_of(thing: Any) -> Report:
    """Make a report of anything, as `report` does."""
    if isinstance(thing, Report):
        return thing
    if isinstance(thing, Mapping):
        return compare({str(name): report_of(each) for name, each in thing.items()}, _now())
    if isinstance(thing, (list, tuple)):
        made = [report_of(each) for each in thing]
        return (
            made[0] if len(made) == 1 else compare(dict(zip(_names(thing, made), made, strict=True)), _now())
        )
    if isinstance(thing, (str, Path)):
        return _of_path(thing)
    return _joined(thing, type(thing).__name__)


def _of_path(word: str | Path) -> Report:
    path = Path(word)
    folder, source = (path, "") if path.is_dir() else split_word(str(word))
    if folder is None and (path.is_file() or path.suffix == ".json"):
        return read_report(path)
    if folder is None:
        raise RequestError(f"cannot report on {word}: no such file or folder", do="name what a command wrote")
    if (folder / SAVED).is_file():
        return read_report(folder / SAVED)
    return replace(_joined(Folder(folder, source), str(folder)), title=str(folder))


def _joined(thing: Any, named: str) -> Report:
    """Join what the subjects know; what only one can say, such as the verdict, is of the first that does."""
    tasks.load()  # their folders may register subjects of their own
    parts = [part for of in registered.values() if (part := of(thing)) is not None]
    if not parts:
        raise RequestError(
            f"there is nothing to report in {named}",
            [f"reports are made of: {', '.join(registered)}"],
            "pass a result, or a folder that a command wrote",
        )
    joined = parts[0]
    for part in parts[1:]:
        changes: dict[str, Any] = {"stages": _stages(joined.stages, part.stages)}
        for name in ("notes", "more", "written"):
            changes[name] = getattr(joined, name) + getattr(part, name)
        for field in fields(Report):
            if field.name not in changes and getattr(joined, field.name) in ("", (), None):
                changes[field.name] = getattr(part, field.name)
        joined = replace(joined, **changes)
    return joined if joined.created else replace(joined, created=_now())


def _stages(known: tuple[ModelRow, ...], more: tuple[ModelRow, ...]) -> tuple[ModelRow, ...]:
    """Join two paths to one model: both end in it, and what one does not know of it the other may."""
    if not known or not more:
        return known or more
    names = {row.name for row in known}
    missing = {name: value for name, value in vars(more[-1]).items() if getattr(known[-1], name) is None}
    before = [row for row in more[:-1] if row.name not in names]
    if None not in (known[-1].macs, more[-1].macs) and known[-1].macs != more[-1].macs:
        # They were counted on inputs of other sizes.
        before = [replace(row, macs=None, memory_bytes=None) for row in before]
        missing.pop("memory_bytes", None)
    return (*before, *known[:-1], replace(known[-1], **missing))


def _names(things: Sequence[Any], made: Sequence[Report]) -> list[str]:
    """A name for each: the end of a path, as much of it as tells it from the others; else the title."""
    paths = [
        _parts(Path(thing).resolve()) if isinstance(thing, (str, Path)) else (one.title,)
        for thing, one in zip(things, made, strict=True)
    ]
    names: list[str] = []
    for length in range(1, max(map(len, paths), default=1) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]


def _parts(path: Path) -> tuple[str, ...]:
    return path.parent.parts if path.name == SAVED else path.parts


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
