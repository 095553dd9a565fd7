"""Named things that users choose by a word: criteria, zoo models, regularisers, report formats.

A plug-in registers itself in its own module; `Registry.load` imports every module of the plug-in folder, so
adding one is a one-file change. Two plug-ins of one name are an error, an unknown name gets a suggestion.
"""

import difflib
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from secateur.errors import MissingExtraError, RequestError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to plug-in, filled by decorator.

    Args:
        kind: What the entries are, for messages: "criterion".
        *packages: The folders of plug-in modules, imported on first look-up.

    Example:
        >>> greetings: Registry[str] = Registry("greeting")
        >>> greetings.add("hello", "good day")
        'good day'
        >>> greetings["helo"]
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: unknown greeting 'helo'
          known: hello
          did you mean 'hello'?
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self.packages = packages
        self._entries: dict[str, T] = {}
        self._loaded = not packages
        self._loading = False
        self._lock = threading.RLock()
        self._missing: dict[str, MissingExtraError] = {}

    def add(self, name: str, entry: T) -> T:
        """Register an entry under a name that must be new; returns the entry."""
        if name in self._entries:
            raise ValueError(f"two plug-ins are called {self.kind} '{name}'")
        self._entries[name] = entry
        return entry

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorate a plug-in with its name."""
        return lambda entry: self.add(name, entry)

    def load(self) -> None:
        """Import every module of the plug-in folders, once."""
        if self._loaded:
            return
        with self._lock:  # another thread must not see half a registry, a plug-in of it may
            if self._loaded or self._loading:
                return
            self._loading = True
            try:
                for package in self.packages:
                    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                        try:
                            importlib.import_module(f"{package}.{module.name}")
                        except MissingExtraError as error:  # the others do without it
                            self._missing[module.name.replace("_", "-")] = error
                self._loaded = True
            finally:
                self._loading = False

    def __getitem__(self, name: str) -> T:
        self.load()
        if name in self._missing:
            raise self._missing[name]
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose a known {self.kind}"
            raise RequestError(f"unknown {self.kind} '{name}'", [f"known: {', '.join(sorted(self))}"], hint)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self.load()
        return len(self._entries)
