"""Extras: libraries that only some work needs, installed with `pip install 'secateur[train]'` and the like.

A module that needs one imports it so:

    with extra("report", "plots"):
        from matplotlib.figure import Figure
"""

from collections.abc import Iterator
from contextlib import contextmanager

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
