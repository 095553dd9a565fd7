"""Objects that modules share, such as a config, where one module needs another number than the rest.

    shared   heads = 8, attention = "sdpa"  <- all modules
    linked   heads = 4, attention: whatever the shared one says  <- the module that lost heads

A module gets an object of its own for its numbers. What is no number is a switch of the whole model, which
people set later and once (`model.set_attn_implementation("eager")`): it is read from the shared object and
written to it, and a config that saves itself saves it so.
"""

import copy
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

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
        kind, shared = kind.__mro__[1], vars(kind)[_SHARED]
    try:
        return _linked(kind, shared, {**vars(held), **numbers})
    except TypeError:
        made = copy.copy(held)
        made.__dict__.update(numbers)
        return made


_classes: WeakValueDictionary[tuple[Any, int], type] = WeakValueDictionary()
"""By class and shared object, which its value keeps alive."""


def _linked(kind: Any, shared: Any, attributes: Mapping[str, Any]) -> Any:
    key = (kind, id(shared))
    extended: Any = _classes.get(key)
    if extended is None:
        extended = _classes[key] = _extended(kind, shared)
    made: Any = extended.__new__(extended)
    made.__dict__.update(attributes)
    return made


def _extended(kind: Any, shared: Any) -> Any:
    """A class of the same name whose switches are those of the shared object.

    The object is held by the class and by closures: compilers follow those, and `vars` does not show it.
    """
    switches = [name for name, value in vars(shared).items() if isinstance(value, _SWITCHES)]
    members: dict[str, Any] = {name: _switch(shared, name) for name in switches}

    def now(held: Any) -> dict[str, Any]:
        """All attributes, the switches as the shared object says them."""
        said = vars(shared)
        vars(held).update((name, said[name]) for name in switches if name in said)
        return vars(held)

    def to_dict(self: Any, *args: Any, **words: Any) -> Any:
        now(self)
        return kind.to_dict(self, *args, **words)

    members |= {
        _SHARED: shared,
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__class__": property(lambda self: kind),
        "__reduce_ex__": lambda self, protocol: (_linked, (kind, shared, dict(now(self)))),
    }
    if hasattr(kind, "to_dict"):  # as configs do that save themselves
        members["to_dict"] = to_dict
    return type(kind.__name__, (kind,), members)


def _switch(shared: Any, name: str) -> property:
    return property(lambda self: getattr(shared, name), lambda self, value: setattr(shared, name, value))
