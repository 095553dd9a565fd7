"""Rows: what is found piece by piece, as JSON lines that are written the moment they are known.

The first line says what the rows belong to. A sweep, or pruning in steps, that was stopped reads its file and
goes on. While it runs the file is locked, so that two at a time do not write into each other's.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.errors import CheckpointError, RequestError
from secateur.write.atomic import explained
from secateur.write.digests import raw

_OBJECT = TypeAdapter(dict[str, Any])

FIGURES = "figures"
"""The item of a row whose own items stand in the line themselves, for a task names its figures."""


def fingerprint_of(batches: Any) -> str:
    """Hash the tensors in any nesting of them: batches, a state dict.

    Example:
        >>> import torch
        >>> fingerprint_of([torch.zeros(2)]) == fingerprint_of([torch.ones(2)])
        False
    """
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(batches):
        digest.update(raw(leaf) if isinstance(leaf, Tensor) else str(leaf).encode())
    return digest.hexdigest()[:16]


class Rows:
    """The rows that are known, by key, and the file that holds them; a context manager, which locks the file.

    Args:
        path: The file; None keeps rows in memory alone.
        opening: What the rows belong to; it must be JSON.
        key: Names the item of a row that tells rows apart.
        row: What a row is: a dataclass, or what else pydantic takes. Its `figures`, a dict, are written out
            beside its other items: what else a line holds is a figure.
        of: What has rows, for messages.

    Raises:
        CheckpointError: The file holds the rows of another sweep, or no rows.
        RequestError: Another process is writing it.

    Example:
        >>> with Rows(None, {"layer": "conv1"}, "count", dict[str, float]) as rows:
        ...     rows.add({"count": 3, "accuracy": 0.5})
        ...     3 in rows.known, 5 in rows.known
        (True, False)
    """

    def __init__(
        self, path: Path | None, opening: Mapping[str, Any], key: str, row: Any, of: str = "sweep"
    ) -> None:
        self.path = path
        self.key = key
        self.known: dict[Any, dict[str, Any]] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        try:
            _lock(self._file, path, of)
            kept = _read(self._file, path, (json.loads(json.dumps(opening)), key, row), of)
        except BaseException:
            self.close()
            raise
        self.known = {one[key]: one for one in kept}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go; what is known stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row and write it down."""
        self.known[row[self.key]] = dict(row)
        if self._file is not None and self.path is not None:
            with explained(self.path):
                _append(self._file, flat(row))


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a line: its figures beside its other items.

    Example:
        >>> flat({"name": "cut", "figures": {"mean IoU": 0.5}})
        {'name': 'cut', 'mean IoU': 0.5}
    """
    return {name: item for name, item in row.items() if name != FIGURES} | dict(row.get(FIGURES, {}))


def folded(line: dict[str, Any], kind: Any) -> dict[str, Any]:
    """A line as a row: what is no other item of it is a figure."""
    names = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    if FIGURES not in names:
        return line
    known = {name: item for name, item in line.items() if name in names}
    return known | {FIGURES: {name: item for name, item in line.items() if name not in names}}


def read_rows(path: Path, of: str = "sweep") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what a file says that its rows belong to, and the rows so far; it may be written meanwhile.

    Args:
        path: The file.
        of: What has rows, for messages.

    Raises:
        CheckpointError: It holds no rows.
    """
    with explained(path):
        whole = path.read_bytes()
    try:
        opening, *rows = map(_OBJECT.validate_json, whole[: whole.rfind(b"\n") + 1].splitlines())
    except ValueError as error:
        raise CheckpointError(f"{path} holds no rows of a {of}", do="name another file") from error
    return opening, rows


def _append(file: BinaryIO, row: Mapping[str, Any]) -> None:
    file.write(f"{json.dumps(row)}\n".encode())
    file.flush()


def _lock(file: BinaryIO, path: Path, of: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        what = f"{path} is being written by another {of} that runs"
        raise RequestError(what, do="wait until it is done, or name another folder") from error
    except OSError:
        return  # a file system that knows no locks


def _read(file: BinaryIO, path: Path, form: tuple[Any, str, Any], of: str) -> list[dict[str, Any]]:
    """The rows of a file, which is left without a last line that is not complete, and with an opening."""
    opening, key, kind = form
    row = TypeAdapter(kind)
    file.seek(0)
    whole = file.read()
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()
    try:
        first, *rows = [_OBJECT.validate_json(line) for line in lines] or [opening]
        rows = [folded(one, kind) for one in rows]
        for one in rows:
            valid = row.validate_json(json.dumps(one), strict=True)
            if key not in one or (is_dataclass(valid) and one.keys() - vars(valid).keys()):
                raise ValueError(f"a line lacks {key} or says more than a row does")
    except ValueError as error:  # pydantic's, too
        what = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{path} holds no rows of a {of}: {what}", do="name another file") from error
    if first != opening:
        differing = [
            f"{name}: {first.get(name)} there, {value} here"
            for name, value in opening.items()
            if first.get(name) != value
        ]
        raise CheckpointError(f"{path} holds the rows of another {of}", differing, "name another file")
    with explained(path):
        os.truncate(path, whole.rfind(b"\n") + 1)
        if not lines:
            _append(file, opening)
    return rows
