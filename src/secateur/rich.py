"""What we use of rich, which is imported here alone: it draws from Python's random numbers when it is.

A seeded script would draw other numbers after its first table than without it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "BarColumn",
    "Console",
    "DownloadColumn",
    "MofNCompleteColumn",
    "Progress",
    "Table",
    "TaskID",
    "TextColumn",
    "TimeRemainingColumn",
]


@contextmanager
def _without_a_trace() -> Iterator[None]:
    state = random.getstate()
    yield
    random.setstate(state)


with _without_a_trace():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table
