"""Objects that modules share, such as a config, where one module needs another number than the rest.

    shared   heads = 8, attention = "sdpa"  <- all modules
    linked   heads = 4, attention: whatever the shared one says  <- the module that lost heads

A module gets an object of its own for its numbers. What is no number is a switch of the whole model, which
people set later and once (`model.set_attn_implementation("eager")`): it is read from the shared object and
written to it.
"""

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

_SHARED = "_secateur_shared"
_SWITCHES = (bool, str, type(None))


def linked(held: Any, numbers: Mapping[str, Any]) -> Any:
    """An object with numbers of its own that otherwise says what another one does.

    Args:
        held: An object with attributes; not changed.
        numbers: The attributes that differ.

    Returns:
        The new object; a plain copy where the class of the other one cannot be extended.

    Example:
        >>> from types import SimpleNamespace
        >>> shared = SimpleNamespace(heads=8, attention="sdpa")
        >>> own = linked(shared, {"heads": 4})
        >>> shared.attention = "eager"
        >>> own.heads, own.attention, shared.heads
        (4, 'eager', 8)
    """
    kind, shared = type(held), held
    if _SHARED in vars(kind):
        kind, shared = kind.__mro__[1], getattr(held, _SHARED)
    try:
        return _linked(kind, shared, {**vars(held), **numbers})
    except TypeError:
        made = copy.copy(held)
        made.__dict__.update(numbers)
        return made


def _linked(kind: Any, shared: Any, attributes: Mapping[str, Any]) -> Any:
    switches = frozenset(name for name, value in vars(shared).items() if isinstance(value, _SWITCHES))
    extended = _extended(kind, switches)
    made = extended.__new__(extended)
    made.__dict__.update(attributes)
    object.__setattr__(made, _SHARED, shared)
    return made


@cache
def _extended(kind: Any, switches: frozenset[str]) -> Any:
    """A class of the same name whose switches are those of the shared object."""
    members: dict[str, Any] = {name: _switch(name) for name in switches}
    members |= {
        "__slots__": (_SHARED,),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__class__": property(lambda self: kind),
        "__reduce_ex__": lambda self, protocol: (
            _linked,
            (kind, object.__getattribute__(self, _SHARED), dict(vars(self))),
        ),
    }
    return type(kind.__name__, (kind,), members)


def _switch(name: str) -> property:
    def write(self: Any, value: Any) -> None:
        setattr(object.__getattribute__(self, _SHARED), name, value)

    return property(lambda self: getattr(object.__getattribute__(self, _SHARED), name), write)
