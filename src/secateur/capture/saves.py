"""Saves: what a place held before a run, and whether it still holds it; most places of most models do.

A run is saved from by taking all containers apart and put back after by going through all of them. Where
several records of one model follow each other, what was saved is kept from one to the next: a look at the
identity of everything that the places hold, most of it without Python, tells that it is still true.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from logging import Logger
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.capture.reach import ALL, Slot

_DEPTH = 3
_LONG = 10_000
_SMALL = 65_536
_NUMBERS = frozenset((bool, int, float, complex, str, bytes, type(None), type, FunctionType))
_LEFT = (nn.Module, ModuleType, FunctionType, MethodType, BuiltinFunctionType, type, Logger)
_CLOSED = (int, float, complex, str, bytes, *_LEFT)


class Place(Protocol):
    """Where something is held that a run may change: a slot, or a switch of the process."""

    @property
    def key(self) -> Hashable:
        """What tells it from other places."""
        ...

    @property
    def read(self) -> Callable[[], Any]:
        """Tells what is held there."""
        ...

    @property
    def write(self) -> Callable[[Any], Any]:
        """Holds something else there."""
        ...


@dataclass
class Save:
    """What a place held, and how many runs may change it now.

    Attributes:
        place: The place.
        value: What it held.
        contents: The containers in that, each beside a copy.
        users: So many runs.
    """

    place: Place
    value: Any
    contents: list[tuple[Any, Any]]
    users: int = 0

    @classmethod
    def of(cls, place: Place) -> "Save":
        """Save what a place holds now."""
        value = place.read()
        return cls(place, value, [] if type(value) in _NUMBERS else contents_of(value, _DEPTH))

    def put_back(self) -> bool:
        """Whether it had to be."""
        value = self.place.read()
        if not isinstance(self.place, Slot):
            self.place.write(self.value)
            return False
        is_same = value is self.value or (self.place.name == ALL and value == self.value)
        if not is_same:
            self.place.write(self.value)
        refilled = [_refill(held, copied) for held, copied in self.contents]
        return any(refilled) or not is_same


class HeldSaves:
    """The saves of all slots that some code reaches, kept from one run to the next."""

    def __init__(self) -> None:
        self.saves: Mapping[Hashable, Save] = {}
        self._readers: list[Callable[[], Any]] = []
        self._values: list[Any] = []
        self._names: list[Save] = []
        self._contents: list[_Contents] = []

    def keep(self, saves: Mapping[Hashable, Save]) -> None:
        """Keep these; none if a tensor is among what they hold, whose numbers would have to be compared.

        Args:
            saves: Those of slots, by their keys.
        """
        for save in saves.values():
            save.users = 1
        contents = [pair for save in saves.values() for pair in save.contents]
        if any(isinstance(held, Tensor) for held, _ in contents):
            self.saves = {}
            return
        self.saves = saves
        kinds = [(kind, [held for held, _ in contents if isinstance(held, kind)]) for kind in _CONTAINERS]
        self._contents = [_Contents(kind, held) for kind, held in kinds if held]
        named = [one for one in saves.values() if isinstance(one.place, Slot) and one.place.name == ALL]
        others = [
            one for one in saves.values() if not (isinstance(one.place, Slot) and one.place.name == ALL)
        ]
        self._names = named
        self._readers = [
            one.place.reader() if isinstance(one.place, Slot) else one.place.read for one in others
        ]
        self._values = [one.value for one in others]

    def is_current(self) -> bool:
        """Whether there are saves, and every place holds the very same, with the very same contents."""
        if not self.saves:
            return False
        try:
            now = [read() for read in self._readers]
            return (
                all(map(is_, now, self._values))
                and all(save.place.read() == save.value for save in self._names)
                and all(one.is_current() for one in self._contents)
            )
        except (ValueError, RuntimeError):  # a cell of a closure was emptied; another thread writes to a dict
            return False


class _Contents:
    """What all containers of one kind hold, looked at without Python."""

    def __init__(self, kind: Any, held: list[Any]) -> None:
        self.kind, self.held = kind, held
        self.sizes, self.parts = self._look()

    def _look(self) -> tuple[list[int], list[Any]]:
        sizes = [*map(self.kind.__len__, self.held)]
        parts = [*chain.from_iterable(map(self.kind.__iter__, self.held))]
        if self.kind is dict:
            parts += chain.from_iterable(map(dict.values, self.held))
        return sizes, parts

    def is_current(self) -> bool:
        sizes, parts = self._look()
        return sizes == self.sizes and len(parts) == len(self.parts) and all(map(is_, parts, self.parts))


_CONTAINERS = (dict, list, set, deque)


def contents_of(value: Any, depth: int) -> list[tuple[Any, Any]]:
    """The containers in a value, each beside a copy."""
    found: list[tuple[Any, Any]] = []
    _collect(value, depth, found)
    return found


def _collect(value: Any, depth: int, found: list[tuple[Any, Any]]) -> None:
    """Add the containers in a value to those found; most values of most places hold none."""
    if isinstance(value, Tensor):
        if _is_small(value):
            found.append((value, value.detach().clone()))
        return
    if depth == 0 or isinstance(value, _CLOSED):
        return
    if isinstance(value, tuple):
        parts: Iterable[Any] = value
    elif isinstance(value, (dict, list, set, deque)):
        copied = _parts(value)
        if len(copied) > _LONG:
            return
        found.append((value, copied))
        parts = [part for _, part in copied] if isinstance(value, dict) else copied
    else:
        held = getattr(value, "__dict__", None)
        if type(held) is dict:
            _collect(held, depth, found)
        return
    for part in parts:
        if type(part) not in _NUMBERS:
            _collect(part, depth - 1, found)


def _parts(container: Any) -> list[Any]:
    """What is in a container, whatever its class makes of asking for it."""
    if isinstance(container, dict):
        return list(dict.items(container))
    return list(next(kind for kind in (list, set, deque) if isinstance(container, kind)).__iter__(container))


def _is_small(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and not tensor.is_meta and tensor.numel() <= _SMALL


def _refill(held: Any, copied: Any) -> bool:
    """Give a container its contents back; whether they were others."""
    if isinstance(held, Tensor):
        return rewrite(held, copied)
    parts = _parts(held)
    if len(parts) == len(copied) and (_is_identical(held, copied) or all(map(_is_same, parts, copied))):
        return False
    kind = next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(held, kind))
    kind.clear(held)
    getattr(kind, "extend" if kind in (list, deque) else "update")(held, copied)
    return True


def rewrite(held: Tensor, copied: Tensor) -> bool:
    """Give a tensor its numbers back, in its place; whether they were others."""
    if held.is_meta or held.shape != copied.shape or held.dtype != copied.dtype:
        held.data = copied
    elif torch.equal(held, copied):
        return False
    else:
        with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(held):
            held.copy_(copied)
    return True


def _is_identical(held: Any, copied: list[Any]) -> bool:
    """Whether a container of the length of its copy holds the very same things, looked at without Python."""
    if isinstance(held, dict):
        return all(map(is_, chain.from_iterable(dict.items(held)), chain.from_iterable(copied)))
    return all(map(is_, _parts(held), copied))


def _is_same(one: Any, two: Any) -> bool:
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        return all(left is right for left, right in zip(one, two, strict=True))
    return one is two
