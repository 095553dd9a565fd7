"""Rows: what is found piece by piece, as JSON lines that are written the moment they are known.

The first line says what the rows belong to. A sweep, or pruning in steps, that was stopped reads its file and
goes on.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.errors import CheckpointError
from secateur.write.atomic import atomic_write, explained


def fingerprint_of(batches: Any) -> str:
    """Hash the tensors in any nesting of them: batches, a state dict.

    Example:
        >>> fingerprint_of([torch.zeros(2)]) == fingerprint_of([torch.ones(2)])
        False
    """
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(batches):
        digest.update(bytes_of(leaf) if isinstance(leaf, Tensor) else str(leaf).encode())
    return digest.hexdigest()[:16]


def bytes_of(tensor: Tensor) -> bytes:
    """The values of a tensor as they lie in memory when contiguous."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class Rows:
    """The rows that are known, by key, and the file that holds them.

    Args:
        path: The file; None keeps rows in memory alone.
        opening: What the rows belong to; it must be JSON.
        key: Names the item of a row that tells rows apart.
        of: What has rows, for messages.

    Raises:
        CheckpointError: The file holds the rows of another sweep, or no rows.

    Example:
        >>> rows = Rows(None, {"layer": "conv1"}, "count")
        >>> rows.add({"count": 3, "accuracy": 0.5})
        >>> 3 in rows.known, 5 in rows.known
        (True, False)
    """

    def __init__(self, path: Path | None, opening: Mapping[str, Any], key: str, of: str = "sweep") -> None:
        self.path = path
        self.key = key
        self.known: dict[Any, dict[str, Any]] = {}
        if path is None:
            return
        lines = [json.dumps(opening)]
        if path.exists():
            kept = _read(path, json.loads(lines[0]), key, of)
            self.known = {row[key]: row for row in kept}
            lines += [json.dumps(row) for row in kept]
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, "".join(f"{line}\n" for line in lines).encode())

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row and write it down."""
        self.known[row[self.key]] = dict(row)
        if self.path is not None:
            with explained(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(row)}\n")


def _read(path: Path, opening: Mapping[str, Any], key: str, of: str) -> list[dict[str, Any]]:
    """The rows of a file, without a last one that is not complete."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        first, *rows = [json.loads(line) for line in lines if line.endswith("\n")] or [opening]
        if not isinstance(first, dict) or not all(isinstance(row, dict) and key in row for row in rows):
            raise ValueError("a line is no row")
    except ValueError as error:  # broken JSON or text that is not UTF-8
        raise CheckpointError(f"{path} holds no rows of a {of}: {error}", do="name another file") from error
    if first != opening:
        differing = [
            f"{name}: {first.get(name)} there, {value} here"
            for name, value in opening.items()
            if first.get(name) != value
        ]
        raise CheckpointError(f"{path} holds the rows of another {of}", differing, "name another file")
    return rows
