"""Extras: libraries that only some work needs, installed with `pip install 'secateur[train]'` and the like.

A function that needs one imports it so:

    with extra("report", "plots"):
        from matplotlib.figure import Figure

A module that needs one throughout says at its top where it comes from, and imports it at its first use:

    ops = Later("torchvision.ops")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from secateur.errors import MissingExtraError


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Say what to install where a library of an extra is missing.

    Args:
        name: The extra in pyproject.toml.
        what: What needs it, in the plural, such as "plots".

    Raises:
        MissingExtraError: An import within found no such module.

    Example:
        >>> with extra("report", "plots"):
        ...     import no_such_module
        Traceback (most recent call last):
        ...
        secateur.errors.MissingExtraError: plots need no_such_module, which is not installed
          pip install 'secateur[report]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        do = f"pip install 'secateur[{name}]'"
        raise MissingExtraError(f"{what} need {error.name}, which is not installed", do=do) from error


def find(*modules: str) -> None:
    """Look whether modules are installed, without importing them; for use within `extra`.

    Args:
        *modules: Their names, without a dot.

    Raises:
        ModuleNotFoundError: One of them is not.

    Example:
        >>> with extra("report", "plots"):
        ...     find("torch", "no_such_module")
        Traceback (most recent call last):
        ...
        secateur.errors.MissingExtraError: plots need no_such_module, which is not installed
          pip install 'secateur[report]'
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)


class Later:
    """A module that is imported when the first of its names is asked for: torchvision takes seconds.

    Args:
        module: Its path.

    Example:
        >>> fractions = Later("fractions")
        >>> fractions.Fraction(2, 4)
        Fraction(1, 2)
    """

    def __init__(self, module: str) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of any object: by copy, pickle, doctest
            raise AttributeError(name)
        return getattr(import_module(self.module), name)
