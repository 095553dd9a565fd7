"""Outside: what a run of a copy of a model leaves behind beside the copy is put back.

The copy has the original's classes and functions. What these hold in globals, class attributes, closures
and default arguments (see `capture/reach.py`) is saved before a run and put back after it: a table that was
made of fake tensors, or in the precision of a proof, is not the user's.
"""

import logging
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.capture.caches import forget_tables
from secateur.capture.reach import ALL, Slot, reach

_DEPTH = 3
_LONG = 10_000
_SMALL = 65_536
_NUMBERS = frozenset((bool, int, float, complex, str, bytes, type(None), type, FunctionType))
_LEFT = (nn.Module, ModuleType, FunctionType, MethodType, BuiltinFunctionType, type, logging.Logger)
_CLOSED = (int, float, complex, str, bytes, *_LEFT)


@dataclass(frozen=True)
class _Switch:
    """Something of the whole process that a model's code sets or draws from.

    Attributes:
        key: Its name.
        read: Tells how it is.
        write: Sets it.
    """

    key: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


_SWITCHES = {
    one.key: one
    for one in (
        _Switch("set_default_dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Switch("set_num_threads", torch.get_num_threads, torch.set_num_threads),
        _Switch(
            "set_float32_matmul_precision",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        _Switch(
            "use_deterministic_algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
    )
}
"""By the names of the functions that set them."""

_GENERATORS = {
    "python": _Switch("python", random.getstate, random.setstate),
    "numpy": _Switch("numpy", np.random.get_state, np.random.set_state),
    "torch": _Switch("torch", torch.get_rng_state, torch.set_rng_state),
}


@contextmanager
def outside_kept(model: nn.Module, seed: int = 0, *, constructs: bool = False) -> Iterator[list[Any]]:
    """Put back what runs of a copy of a model change beside it.

    Args:
        model: What runs.
        seed: Of what its own code draws by Python's or NumPy's random numbers.
        constructs: The constructors of its modules run, too.

    Yields:
        A list which at the end holds the places that were changed.

    Example:
        >>> __name__ = "networks"  # classes of this package are not looked at
        >>> class Cached(nn.Module):
        ...     tables = {}
        ...     def forward(self, x):
        ...         return x + self.tables.setdefault(x.shape, torch.zeros(x.shape))
        >>> with outside_kept(Cached()):
        ...     _ = Cached()(torch.ones(2))
        >>> Cached.tables
        {}
    """
    found = reach(model, constructs=constructs)
    caches = [cache for held in found.caches.values() if (cache := held()) is not None]
    for cache in caches:
        forget_tables(cache)  # or the first run would find what later ones have to make
    switches = [one for name, one in _SWITCHES.items() if name in found.named]
    generators = [_GENERATORS[name] for name in sorted(found.draws)]
    with _SAVED.over([*found.places.values(), *switches, *generators]) as changed:
        if "python" in found.draws:
            random.seed(seed)
        if "numpy" in found.draws:
            np.random.seed(seed)
        try:
            yield changed
        finally:
            for cache in caches:
                forget_tables(cache)


@dataclass
class _Save:
    """What a place held, and how many runs may change it now."""

    place: Slot | _Switch
    value: Any
    contents: list[tuple[Any, Any]]
    users: int = 0

    def put_back(self) -> bool:
        """Whether it had to be."""
        value = self.place.read()
        if isinstance(self.place, _Switch):
            self.place.write(self.value)
            return False
        is_same = value is self.value or (self.place.name == ALL and value == self.value)
        if not is_same:
            self.place.write(self.value)
        refilled = [_refill(held, copied) for held, copied in self.contents]
        return any(refilled) or not is_same


class _Saved:
    """The places that some run may change now; the last run puts them back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.saves: dict[Hashable, _Save] = {}

    @contextmanager
    def over(self, places: Sequence[Slot | _Switch]) -> Iterator[list[Any]]:
        """Save places until all runs that may change them ended; yields what turns out to be changed."""
        changed: list[Any] = []
        with self.lock:
            for place in places:
                key = place.key
                if key not in self.saves:
                    value = place.read()
                    held = [] if type(value) in _NUMBERS else _contents(value, _DEPTH)
                    self.saves[key] = _Save(place, value, held)
                self.saves[key].users += 1
        try:
            yield changed
        finally:
            with self.lock:
                # Last which names a class has: a run within another one may have met a name of that one's.
                for place in sorted(places, key=lambda one: isinstance(one, Slot) and one.name == ALL):
                    save = self.saves[place.key]
                    save.users -= 1
                    if not save.users and self.saves.pop(place.key).put_back():
                        changed.append(place)


_SAVED = _Saved()


def _contents(value: Any, depth: int) -> list[tuple[Any, Any]]:
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
