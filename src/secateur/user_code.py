"""Code of the user's own: what a word such as `path/to/file.py:name` stands for.

A file is run only where the user names it. It may import its neighbours, as a script can.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from secateur.errors import RequestError


def is_file_word(word: str) -> bool:
    """Whether a word names something in a file, which is run for it.

    Example:
        >>> is_file_word("net.py:make"), is_file_word("zoo:vgg11")
        (True, False)
    """
    return word.partition(":")[0].endswith(".py")


_ALIAS = "secateur_source_"
_folders: set[Path] = set()
"""Where files of the user's were run from."""


def own_modules() -> list[ModuleType]:
    """The files that were run and their neighbours that they imported: no other process knows them by name.

    Example:
        >>> any(module.__name__ == "torch" for module in own_modules())
        False
    """
    found = []
    for name, module in sys.modules.copy().items():
        top = sys.modules.get(name.partition(".")[0])
        file = Path(getattr(top, "__file__", None) or "")
        home = file.parent.parent if file.name == "__init__.py" else file.parent
        if name.startswith(_ALIAS) or (file.name and home in _folders and top is not sys.modules["secateur"]):
            found.append(module)
    return found


@contextlib.contextmanager
def imports_from(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as a script can."""
    _folders.add(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def from_file(word: str, kind: str, default: str = "") -> Callable[..., Any]:
    """Run a file and take one of its functions or classes.

    Args:
        word: "path/to/file.py:name", or the path alone.
        kind: What is looked for, for messages: "factory".
        default: The name where the word has none.

    Raises:
        RequestError: There is no such file, it does not run, or it has no such name.
    """
    file, _, name = word.partition(":")
    path = Path(file)
    if not path.is_file():
        raise RequestError(f"no such file: {path}", do=f"check the path; it is looked for in {Path.cwd()}")
    # A name of its own: a file may be called like a module that others import, such as types.py.
    alias = f"{_ALIAS}{path.stem}"
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        with imports_from(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[alias]
        raise RequestError(
            f"{path} does not run: {type(error).__name__}: {error}", do=f"mend it until `python {path}` runs"
        ) from error
    found = getattr(module, name or default, None)
    if not callable(found):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise RequestError(
            f"{path} has no {kind} '{name or default}'", [f"it has: {known}"], f"write path/to/file.py:{kind}"
        )
    return found
