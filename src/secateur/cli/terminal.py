"""What the command line says: the result on stdout, what happens meanwhile on stderr."""

import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())
"""The words after the program's name, for reports and plans that say what made them."""

talk: ContextVar[tuple[bool, bool]] = ContextVar("talk", default=(False, False))
"""Whether the result is printed as JSON, and whether every step is told."""


@dataclass(frozen=True)
class Answer:
    """What came out of a command.

    Attributes:
        numbers: For machines.
        text: For people.
        failed: Whether what was to be proven is not so: exit 1.
    """

    numbers: Mapping[str, Any]
    text: str
    failed: bool = False


def emit(numbers: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result: one JSON object for machines, or text for people."""
    sys.stdout.write((json.dumps(_finite(numbers), indent=1) if as_json else text) + "\n")


def _finite(value: Any) -> Any:
    """Write what is not finite as a word, as reports do: JSON has no number for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return {name: _finite(held) for name, held in value.items()}
    return [_finite(held) for held in value] if isinstance(value, (list, tuple)) else value


def say(line: str) -> None:
    """Tell the user what happens, on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def detail(line: str) -> None:
    """Tell it with `--verbose` only."""
    if talk.get()[1]:
        say(line)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Tell how long a step took, with `--verbose`."""
    detail(f"{what} ...")
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    detail(f"{what}: {time.perf_counter() - wall:.2f} s, {time.process_time() - cpu:.2f} s of CPU")


def command_line() -> str:
    """The command as typed, for reports and plans."""
    return shlex.join(["secateur", *typed.get()])
