"""Prune PyTorch networks: couple, score, cut, prove, recover.

The names stand in `secateur.public`, for people and type checkers. Here each is imported when it is first
asked for, with what it needs and no more: PyTorch itself is not worth the wait for `secateur --version`,
`--help` and the completion of a shell, nor are proof, recovery and reports for `secateur.couple`.
"""

from functools import cache as _cache
from importlib import import_module as _import
from importlib.metadata import version as _version
from importlib.util import find_spec as _find
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.public import *  # noqa: F403
    from secateur.public import __all__ as __all__

__version__ = _version("secateur")


def __getattr__(name: str) -> Any:
    """Import a public name, or a folder of the package, when it is asked for."""
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("__") or not name.isidentifier():
        raise AttributeError(f"module 'secateur' has no attribute '{name}'")
    if name in _homes():
        module, inside = _homes()[name]
        globals()[name] = found = getattr(_import(module), inside) if inside else _import(module)
        return found
    if _find(f"secateur.{name}") is None:
        raise AttributeError(f"module 'secateur' has no attribute '{name}'")
    return _import(f"secateur.{name}")


@_cache
def _homes() -> dict[str, tuple[str, str]]:
    """Where each public name is at home, module and name in it, as the imports of `secateur.public` say."""
    import ast

    public = "secateur.public"
    loader: Any = getattr(_find(public), "loader", None)
    source = loader.get_source(public)
    if source is None:  # compiled files alone were installed
        return {name: (public, name) for name in _import(public).__all__}
    homes: dict[str, tuple[str, str]] = {}
    for node in ast.parse(source).body:
        for one in node.names if isinstance(node, ast.ImportFrom) and node.module else ():
            name, module = one.asname or one.name, str(node.module)
            homes[name] = (f"{module}.{one.name}", "") if module == "secateur" else (module, one.name)
    return homes


def __dir__() -> list[str]:
    """List what is here and what can be asked for."""
    return [*globals(), *_homes()]
