"""Outside: what a run of a copy of a model leaves behind beside the copy is put back.

The copy has the original's classes and functions. What these hold in globals, class attributes, closures
and default arguments (see `capture/reach.py`) is saved before a run and put back after it: a table that was
made of fake tensors, or in the precision of a proof, is not the user's.
"""

import random
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.capture.caches import forget_tables
from secateur.capture.reach import ALL, Reach, Slot, reach
from secateur.capture.saves import HeldSaves, Place, Save


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
    hold = _HOLD.get()
    found = reach(model, constructs=constructs) if hold is None else hold.reach(model, constructs)
    kept = None if hold is None else hold.kept(found)
    caches = [cache for held in found.caches.values() if (cache := held()) is not None]
    for cache in caches:
        forget_tables(cache)  # or the first run would find what later ones have to make
    switches = [one for name, one in _SWITCHES.items() if name in found.named]
    generators = [_GENERATORS[name] for name in sorted(found.draws)]
    with _SAVED.over([*found.places.values()], [*switches, *generators], kept) as changed:
        if "python" in found.draws:
            random.seed(seed)
        if "numpy" in found.draws:
            np.random.seed(seed)
        try:
            yield changed
        finally:
            for cache in caches:
                forget_tables(cache)


class _Saved:
    """The places that some run may change now; the last run puts them back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.saves: dict[Hashable, Save] = {}
        self.begun = 0

    @contextmanager
    def over(
        self, slots: Sequence[Slot], switches: Sequence[_Switch], kept: HeldSaves | None
    ) -> Iterator[list[Any]]:
        """Save places until all runs that may change them ended; yields what turns out to be changed.

        Args:
            slots: Places of the model's code.
            switches: Those of the process.
            kept: What was saved of the slots before, and takes what is saved now; None if no run follows.
        """
        changed: list[Any] = []
        with self.lock:
            self.begun += 1
            begun, is_alone = self.begun, not self.saves
            if kept is not None and is_alone and kept.saves:
                self.saves.update(kept.saves)  # with one user each
            else:
                self._save(slots)
                if kept is not None and is_alone:
                    kept.keep(dict(self.saves))
            self._save(switches)
        try:
            yield changed
        finally:
            with self.lock:
                is_alone = is_alone and begun == self.begun
                if kept is not None and is_alone and kept.is_current():
                    for one in slots:
                        del self.saves[one.key]
                else:
                    changed += self._put_back(slots)
                    if kept is not None:
                        kept.keep(kept.saves if is_alone else {})
                self._put_back(switches)

    def _save(self, places: Sequence[Place]) -> None:
        for place in places:
            save = self.saves.get(place.key)
            if save is None:
                save = self.saves[place.key] = Save.of(place)
            save.users += 1

    def _put_back(self, places: Sequence[Place]) -> list[Place]:
        """Put back what no other run may change; the places that were changed."""
        changed: list[Place] = []
        # Last which names a class has: a run within another one may have met a name of that one's.
        for place in sorted(places, key=lambda one: isinstance(one, Slot) and one.name == ALL):
            save = self.saves[place.key]
            save.users -= 1
            if not save.users and self.saves.pop(place.key).put_back():
                changed.append(place)
        return changed


_SAVED = _Saved()


class _Hold:
    """What was found of models and saved of their surroundings, while several runs of them follow."""

    def __init__(self) -> None:
        self._reached: dict[tuple[int, bool], tuple[nn.Module, Reach]] = {}
        self._kept: dict[int, HeldSaves] = {}

    def reach(self, model: nn.Module, constructs: bool) -> Reach:
        key = (id(model), constructs)
        if key not in self._reached:
            self._reached[key] = model, reach(model, constructs=constructs)
        return self._reached[key][1]

    def kept(self, found: Reach) -> HeldSaves:
        return self._kept.setdefault(id(found), HeldSaves())


_HOLD: ContextVar[_Hold | None] = ContextVar("_HOLD", default=None)


@contextmanager
def outside_held() -> Iterator[None]:
    """Keep what is saved around a model from one run to the next.

    While this lasts, models are not given other classes or functions than they had at their first run, and
    what is assigned around them between two runs counts as the next one's doing, as it does during a run.

    Example:
        >>> with outside_held():
        ...     for _ in range(2):
        ...         with outside_kept(nn.Linear(2, 2)) as changed:
        ...             pass
        >>> changed
        []
    """
    token = _HOLD.set(_HOLD.get() or _Hold())
    try:
        yield
    finally:
        _HOLD.reset(token)
