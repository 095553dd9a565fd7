"""Stored: what a replay knows at a fork, batch by batch, in memory up to a limit and on disk above it."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from secateur.write.atomic import explained, remove_leftovers, scratch_folder


@dataclass(frozen=True, eq=False)
class State:
    """One batch at a fork.

    Attributes:
        values: The tensors that later calls read, by value.
        size: How many samples it is of, those that fill it up included.
    """

    values: Mapping[int, Tensor]
    size: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.values.values())


class Stored:
    """States that are added once and read many times.

    Args:
        memory_bytes: How much may stay in memory; what comes after goes to disk.
        folder: Where the folder on disk is made; None takes the system's place for such files.
    """

    def __init__(self, memory_bytes: int, folder: Path | None = None) -> None:
        self.memory_bytes = memory_bytes
        self.bytes_in_memory = 0
        self.count_on_disk = 0
        self._place = Path(folder or tempfile.gettempdir(), "secateur-sweep")
        remove_leftovers(self._place.parent, self._place)
        self._states: list[State | Path] = []
        self._disk: Path | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Stored":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[State]:
        for held in self._states:
            if isinstance(held, State):
                yield held
            else:
                found = torch.load(held, weights_only=True, mmap=False)
                yield State(found["values"], found["size"])

    def add(self, state: State) -> None:
        """Keep a state.

        Raises:
            SecateurError: The disk is full.
        """
        if self.bytes_in_memory + state.size_bytes <= self.memory_bytes:
            self.bytes_in_memory += state.size_bytes
            self._states.append(state)
            return
        if self._disk is None:
            self._disk = self._open.enter_context(scratch_folder(self._place))
        path = self._disk / f"{len(self._states)}.pt"
        with explained(path):
            torch.save({"values": dict(state.values), "size": state.size}, path)
        self.count_on_disk += 1
        self._states.append(path)

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._states.clear()
        self.bytes_in_memory = self.count_on_disk = 0
        self._open.close()
        self._disk = None
