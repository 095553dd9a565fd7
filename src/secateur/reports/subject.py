"""Subjects: the kinds of things that a report can be of, each a function that registers itself.

The core's stand in `secateur.reports.subjects`; a folder of `secateur.domains` may register its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.registry import Registry
from secateur.reports.content import Report


@dataclass(frozen=True)
class Folder:
    """A folder that a command wrote.

    Args:
        path: Where it is.
        source: The word for what builds its architecture; empty for what its plan says.
    """

    path: Path
    source: str = ""


registered: Registry[Callable[[Any], Report | None]] = Registry("subject", "secateur.reports.subjects")
"""From an object or a `Folder` to a report of what is known of it; None for what is none of theirs."""
