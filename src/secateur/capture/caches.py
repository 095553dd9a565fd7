"""Caches outside of a model must not keep fake tensors: the user's next run would get them back.

Some models cache tables by their sizes in a `functools.lru_cache` of the whole process. After a run on fake
tensors, if one of them outlives it, the caches that hold tensors are cleared. The same caches are cleared
before every later run, so that all records of a model make the table and none just finds it.
"""

import functools
import gc
import os
import sys
import traceback
import weakref
from collections.abc import Iterator, Sequence
from inspect import Signature
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

_WITH_TABLES: "weakref.WeakSet[functools._lru_cache_wrapper[Any]]" = weakref.WeakSet()
"""Caches that once held a fake tensor, or a tensor beside one."""


def start_afresh() -> None:
    """Clear the caches that are known to hold tables, before a run."""
    for held in _WITH_TABLES:
        held.cache_clear()


def forget(tensors: Sequence["weakref.ref[Tensor]"]) -> None:
    """Clear the process's function caches if a tensor of a finished run is still alive.

    Args:
        tensors: What the run made; all else that held them is gone.

    Example:
        >>> import torch, types
        >>> networks = sys.modules["networks"] = types.ModuleType("networks")
        >>> networks.table = functools.lru_cache(torch.zeros)
        >>> forget([weakref.ref(networks.table(3))])
        >>> networks.table.cache_info().currsize
        0
        >>> del sys.modules["networks"]
    """
    if not any(tensor() is not None for tensor in tensors):
        return
    gc.collect()
    if any(tensor() is not None for tensor in tensors):
        for cache in _caches_of_modules():
            forget_tables(cache)


def forget_tables(cache: "functools._lru_cache_wrapper[Any]") -> None:
    """Clear a cache if a tensor is among what it holds, and again before every later run."""
    if _holds_tensors(cache):
        cache.cache_clear()
        _WITH_TABLES.add(cache)


def drop_frames(error: BaseException | None) -> None:
    """Replace the tracebacks of an error and of its causes, which hold tensors, by a note of the line."""
    while error is not None:
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if f"{os.sep}torch{os.sep}" not in line.filename]
        if own:
            error.add_note(
                f"at {'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno}: {own[-1].line}"
            )
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _caches_of_modules() -> "Iterator[functools._lru_cache_wrapper[Any]]":
    """The function caches in loaded modules and in their classes.

    `gc.get_objects` would find all, but it also takes hold of the tuples that other threads are just filling,
    and those threads then fail (CPython issue 59313).
    """
    for name, module in list(sys.modules.items()):
        if _is_foreign(name):
            held = list(getattr(module, "__dict__", {}).values())
            classes = [one for one in held if isinstance(one, type) and one.__module__ == name]
            for one in [*held, *(entry for kind in classes for entry in list(vars(kind).values()))]:
                if type(one) is functools._lru_cache_wrapper:
                    yield one


@functools.lru_cache
def _is_foreign(module: str) -> bool:
    """Whether a module belongs neither to PyTorch nor to Python itself; `typing` keeps hundreds of caches."""
    package = module.partition(".")[0]
    return package != "torch" and package not in sys.stdlib_module_names


def _holds_tensors(cache: "functools._lru_cache_wrapper[Any]") -> bool:
    """Whether a tensor is among the cached results, or inside one of them."""
    if not cache.cache_info().currsize:
        return False
    held = gc.get_referents(cache)
    if _PLAIN.issuperset(map(type, held)):
        return False
    return any(isinstance(leaf, Tensor) for one in held if not _is_plain(one) for leaf in tree_leaves(one))


_ENTRIES = [one for one in gc.get_referents(_is_foreign) if isinstance(one, type) and "elem" in one.__name__]
"""The class of what the dict of a cache holds, beside which the cache itself names its results."""

_PLAIN = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, object, FunctionType, CodeType, Signature)
).union(_ENTRIES)


def _is_plain(value: Any) -> bool:
    """Whether a value is no tensor and holds none, as most that is cached, and the entries of a cache."""
    if type(value) is dict or type(value) is tuple:
        parts = value.values() if type(value) is dict else value
        return _PLAIN.issuperset(map(type, parts)) or all(map(_is_plain, parts))
    return type(value) in _PLAIN
