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
from collections.abc import Sequence
from pathlib import Path
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
        >>> import torch
        >>> @functools.lru_cache
        ... def table(size):
        ...     return torch.zeros(size)
        >>> forget([weakref.ref(table(3))])
        >>> table.cache_info().currsize
        0
    """
    if not any(tensor() is not None for tensor in tensors):
        return
    gc.collect()
    if any(tensor() is not None for tensor in tensors):
        for held in gc.get_objects():
            if type(held) is functools._lru_cache_wrapper and _is_foreign(held) and _holds_tensors(held):
                held.cache_clear()
                _WITH_TABLES.add(held)


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


def _is_foreign(cache: object) -> bool:
    """Whether a cache belongs neither to PyTorch nor to Python itself; `typing` keeps hundreds."""
    package = (getattr(cache, "__module__", None) or "").partition(".")[0]
    return package != "torch" and package not in sys.stdlib_module_names


def _holds_tensors(cache: object) -> bool:
    """Whether a tensor is among the cached results, or inside one of them."""
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(gc.get_referents(cache)))
