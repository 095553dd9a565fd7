"""Prune PyTorch networks: couple, score, cut, prove, recover.

The names stand in `secateur.public`, which is imported when the first of them is asked for: it needs torch,
and `secateur --version`, `--help` and the completion of a shell are not worth the wait.
"""

from importlib import import_module as _import
from importlib.metadata import version as _version
from sys import modules as _loaded
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.public import *  # noqa: F403
    from secateur.public import __all__ as __all__

__version__ = _version("secateur")


def __getattr__(name: str) -> Any:
    """Import the public names when one of them, or a folder of the package, is asked for."""
    if name == "__all__" or not name.startswith("__"):
        _import_rich()
        public = _import("secateur.public")
        if hasattr(public, name):  # while it is being imported itself, Python goes on with submodules
            globals()[name] = getattr(public, name)
        if name in globals():  # submodules are, by now
            return globals()[name]
    raise AttributeError(f"module 'secateur' has no attribute '{name}'")


def _import_rich() -> None:
    """Import rich without a trace: it draws from Python's random numbers when it is imported."""
    if "rich.style" not in _loaded:
        random = _import("random")
        state = random.getstate()
        _import("rich.style")
        random.setstate(state)


def __dir__() -> list[str]:
    """List what is here and what can be asked for."""
    return [*globals(), *_import("secateur.public").__all__]
