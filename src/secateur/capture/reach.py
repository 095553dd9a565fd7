"""What a model's code can reach outside of the model: globals, class attributes, closures, default arguments.

A copy of a model shares its classes and its functions with the original, and with them what these hold: a
table in a dict of the module, a counter of the class, the list that a hook appends to. The names in the
bytecode of the model's functions say which of these there are. Nothing found is kept alive.
"""

import dis
import random
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper, cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ref

from torch import nn

from secateur.capture.closures import is_filled
from secateur.capture.walk import walk_modules

_DISTANT = frozenset(
    {
        "filelock",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "idna",
        "packaging",
        "psutil",
        "requests",
        "tqdm",
        "urllib3",
    }
)
"""Packages of files, processes and the network: loaders name them, a forward runs none of them."""

_FOREIGN = frozenset({"torch", "numpy", "secateur", "builtins"}) | _DISTANT | sys.stdlib_module_names
"""Packages whose functions keep nothing of a model."""

_UNASKED = ("__call__", "__getattr__", "__setattr__", "__getattribute__")
"""Methods of modules that Python calls by itself while a model runs."""

_SEEDS = frozenset({"manual_seed", "set_rng_state"})
_STORES = frozenset(dis.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL"))
_DECIDES = frozenset(code for name, code in dis.opmap.items() if "JUMP_IF" in name or name == "COMPARE_OP")
_SIZES = frozenset({"shape", "size", "len", "numel", "ndim", "dim"})
_FUNCTIONS = (FunctionType, MethodType, _lru_cache_wrapper)
_LONG = 1000
"""Containers with more entries are tables of data, not of functions."""


class _Missing:
    """Nothing is held."""


MISSING = _Missing()
ALL = "*"


@dataclass(frozen=True)
class Slot:
    """A name of a namespace, or a cell of a closure, that something is held in.

    Attributes:
        key: What tells it from other slots.
        owner: Gives the namespace of a module, the class, or the function whose closure or defaults it is;
            None once that is gone.
        name: Its name there; of a closure the position of the cell; `ALL` for which names a class has.
    """

    key: Hashable
    owner: Callable[[], Any]
    name: str | int

    @classmethod
    def of(cls, owner: Any, name: str | int) -> "Slot":
        """A slot that does not keep its owner alive; namespaces of modules live as long as these."""
        return cls((id(owner), name), (lambda: owner) if isinstance(owner, dict) else ref(owner), name)

    def read(self) -> Any:
        """What is held there; `MISSING` if nothing is."""
        owner, name = self.owner(), self.name
        if owner is None:
            return MISSING
        if isinstance(name, int):
            return owner.__closure__[name].cell_contents if is_filled(owner.__closure__[name]) else MISSING
        if name == ALL:
            return tuple(vars(owner))
        if isinstance(owner, FunctionType):
            return getattr(owner, name)
        return (owner if isinstance(owner, dict) else vars(owner)).get(name, MISSING)

    def reader(self) -> Callable[[], Any]:
        """What reads as `read` does, without Python; keeps the owner, raises ValueError at an empty cell."""
        owner, name = self.owner(), self.name
        if owner is None or name == ALL:
            return self.read
        if isinstance(name, int):
            cell = owner.__closure__[name]
            return partial(getattr, cell, "cell_contents") if is_filled(cell) else self.read
        if isinstance(owner, FunctionType):
            return partial(getattr, owner, name)
        return partial((owner if isinstance(owner, dict) else vars(owner)).get, name, MISSING)

    def write(self, value: Any) -> None:
        """Hold another value there."""
        owner, name = self.owner(), self.name
        if owner is None:
            return
        if isinstance(name, int):
            if value is not MISSING:
                owner.__closure__[name].cell_contents = value
        elif name == ALL:
            for one in [one for one in vars(owner) if one not in value]:
                delattr(owner, one)
        elif isinstance(owner, dict):
            owner.pop(name, None) if value is MISSING else owner.update({name: value})
        elif value is MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


@dataclass
class Reach:
    """What some code can reach.

    Attributes:
        places: By their keys.
        named: The names of globals and attributes in the code.
        caches: The function caches of the process that it calls.
        draws: Which random numbers it draws or seeds by itself: "python", "numpy" or "torch".
        sizing: Some code in the files of the model's classes decides by sizes of tensors.
        compared: Whole numbers in such code.
        is_shared: Two runs at a time would meet in these files, where code assigns to globals, draws from the
            generators of the process, or holds what belongs to one thread.
    """

    places: dict[Hashable, Slot] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    caches: dict[int, "ref[_lru_cache_wrapper[Any]]"] = field(default_factory=dict)
    draws: set[str] = field(default_factory=set)
    sizing: bool = False
    compared: set[int] = field(default_factory=set)
    is_shared: bool = False


_KNOWN: dict[tuple[int, ...], tuple[tuple["ref[Any]", ...], Reach]] = {}
_KEPT = 16
"""How many models are remembered, by their classes and functions."""


def reach(model: nn.Module, *, constructs: bool = False) -> Reach:
    """Find what the code of a model can reach.

    Args:
        model: Any module; nothing of it runs.
        constructs: The constructors of its modules run, too.

    Example:
        >>> __name__ = "networks"  # classes of this package are not looked at
        >>> class Counted(nn.Module):
        ...     runs = 0
        ...     def forward(self, x):
        ...         Counted.runs += 1
        ...         return x
        >>> [place.name for place in reach(Counted()).places.values() if place.owner() is Counted]
        ['*', 'runs']
    """
    start: dict[int, Any] = {}
    held = [module for _, module in walk_modules(model)]
    for module in held:
        start[id(type(module))] = type(module)
        for name, value in vars(module).items():
            if name not in _REGISTERED and type(value) not in _NUMBERS and not _is_empty(value):
                start.update((id(one), one) for one in _functions_in(value))
    kinds = dict.fromkeys(base for one in start.values() if isinstance(one, type) for base in one.__mro__)
    # What a class came to hold since it was looked at, by a run of the user's, may change, too.
    names = (name for base in kinds if not _is_foreign(base) for name in vars(base))
    key = (constructs, *sorted(start), hash(tuple(names)))
    refs, found = _KNOWN.get(key, ((), Reach()))
    if refs and all(one() is not None for one in refs):
        return found
    walk = _Walk({kind.__module__ for kind in map(type, held)}, constructs)
    for one in start.values():
        walk.add(one)
    while len(_KNOWN) >= _KEPT:
        _KNOWN.pop(next(iter(_KNOWN)), None)
    _KNOWN[key] = tuple(map(ref, start.values())), walk.finish()
    return walk.found


_NUMBERS = frozenset((bool, int, float, complex, str, bytes, type(None)))


def _is_empty(value: Any) -> bool:
    """Whether this is a container that holds nothing, as most of the tables of hooks do."""
    return type(value) in (dict, OrderedDict, list, tuple) and not value


_REGISTERED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")


def _functions_in(value: Any) -> Iterator[Any]:
    """The functions that an attribute of a module holds: hooks, a forward, an activation, of what class."""
    if isinstance(value, _FUNCTIONS):
        yield getattr(value, "__func__", value)
        yield from () if not hasattr(value, "__self__") else _functions_in(value.__self__)
    elif isinstance(value, partial):
        yield from _functions_in(value.func)
    elif isinstance(value, (dict, list, tuple)):
        for part in _parts(value):
            if not _is_final(part):
                yield from _functions_in(part)
    elif not _is_final(value) and not isinstance(value, nn.Module) and not _is_foreign(type(value)):
        yield type(value)


def _parts(value: Any) -> Iterator[Any]:
    if value and len(value) <= _LONG:
        yield from value.values() if isinstance(value, dict) else value


class _Walk:
    """Walks from functions and classes to what they name."""

    def __init__(self, files: set[str], constructs: bool) -> None:
        self.files = files
        self.constructs = constructs
        self.found = Reach()
        self.seen: dict[int, Any] = {}
        self.waiting: deque[Callable[[], None]] = deque()
        self.unnamed: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)

    def finish(self) -> Reach:
        while self.waiting:
            self.waiting.popleft()()
        return self.found

    def add(self, value: Any) -> None:
        """Note a function or a class, once."""
        if isinstance(value, _lru_cache_wrapper):
            self.found.caches[id(value)] = ref(value)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, MethodType):
            self.add_held(value.__self__)
            value = value.__func__
        if isinstance(value, (FunctionType, _lru_cache_wrapper)):
            value = self._inner(value)
        if id(value) in self.seen or not isinstance(value, (FunctionType, type)) or _is_foreign(value):
            return
        self.seen[id(value)] = value
        walk: Callable[[Any], None] = self._walk_class if isinstance(value, type) else self._walk_function
        self.waiting.append(partial(walk, value))

    def _inner(self, function: Any) -> Any:
        """The function that decorators wrap; they are walked, too."""
        while hasattr(function, "__wrapped__"):
            if isinstance(function, FunctionType) and id(function) not in self.seen:
                self.seen[id(function)] = function
                self.waiting.append(partial(self._walk_function, function))
            function = function.__wrapped__
        return function

    def add_held(self, value: Any) -> None:
        """Note what an object holds: functions, also in containers such as those of hooks."""
        for one in _functions_in(value):
            self.add(one)

    def _walk_class(self, kind: type) -> None:
        """Walk what runs unasked; the rest waits until some code names it."""
        for base in kind.__mro__:
            if _is_foreign(base):
                continue
            if issubclass(base, nn.Module):
                self._place(base, ALL)
            for name, value in list(vars(base).items()):
                if isinstance(value, property):
                    for part in (value.fget, value.fset):
                        self._once_named(name, partial(self.add, part))
                elif isinstance(value, (FunctionType, staticmethod, classmethod, _lru_cache_wrapper)):
                    runs = name == "forward" or (name.startswith("__") and not issubclass(base, nn.Module))
                    if runs or name in _UNASKED or (self.constructs and name == "__init__"):
                        self.add(value)
                    else:
                        self._once_named(name, partial(self.add, value))
                elif not name.startswith("__") and _may_change(value):
                    self._once_named(name, partial(self._place, base, name))

    def _once_named(self, name: str, walk: Callable[[], None]) -> None:
        if name in self.found.named:
            self.waiting.append(walk)
        else:
            self.unnamed[name].append(walk)

    def _walk_function(self, function: FunctionType) -> None:
        self._walk_code(function.__code__, function.__globals__)
        for at, cell in enumerate(function.__closure__ or ()):
            if is_filled(cell) and isinstance(cell.cell_contents, (*_FUNCTIONS, type)):
                self.add(cell.cell_contents)
            else:
                self._place(function, at)
                is_local = is_filled(cell) and isinstance(cell.cell_contents, threading.local)
                self.found.is_shared |= is_local
        if any(_may_change(value) and not _is_final(value) for value in function.__defaults__ or ()):
            self._place(function, "__defaults__")
        if function.__name__ in function.__code__.co_names:
            self._place(function, "__dict__")

    def _walk_code(self, code: CodeType, names: dict[str, Any]) -> None:
        for name in set(code.co_names) - self.found.named:
            self.found.named.add(name)
            self.waiting.extend(self.unnamed.pop(name, ()))
        if not _SEEDS.isdisjoint(code.co_names):
            self.found.draws.add("torch")
        for name in code.co_names:
            if name in names:
                self._name(names, name, code)
        opcodes = set(code.co_code[::2])
        if names.get("__name__") in self.files and opcodes & _DECIDES and _SIZES & {*code.co_names}:
            self.found.sizing = True
            self.found.compared.update(one for one in code.co_consts if type(one) is int)
        if opcodes & _STORES:
            for one in dis.get_instructions(code):
                if one.opcode in _STORES:
                    self.found.is_shared |= names.get("__name__") in self.files
                    self._place(names, one.argval)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._walk_code(constant, names)

    def _name(self, names: dict[str, Any], name: str, code: CodeType) -> None:
        """A global that some code names."""
        value, drawn = names[name], _drawn_by(names[name], code)
        if drawn:
            self.found.draws.add(drawn)
        if names.get("__name__") in self.files:
            self.found.is_shared |= bool(drawn) or isinstance(value, threading.local)
        if isinstance(value, ModuleType):
            if not _is_foreign_name(value.__name__):
                for inner in set(code.co_names) & vars(value).keys():
                    if not isinstance(vars(value)[inner], ModuleType):
                        self._name(vars(value), inner, code)
        elif isinstance(value, (*_FUNCTIONS, type)):
            self.add(value)
        elif _may_change(value):
            self._place(names, name)
            self.add_held(value)

    def _place(self, owner: Any, name: str | int) -> None:
        place = Slot.of(owner, name)
        self.found.places[place.key] = place


def _drawn_by(value: Any, code: CodeType) -> str:
    """Whose random numbers a global draws by other means than PyTorch's operators; empty for no one's."""
    if isinstance(value, ModuleType):
        if value.__name__ == "random":
            return "python"
        is_numpy = value.__name__ == "numpy" and "random" in code.co_names
        return "numpy" if is_numpy or value.__name__ == "numpy.random" else ""
    held = value.__self__ if isinstance(value, (MethodType, BuiltinFunctionType)) else None
    if isinstance(held, random.Random):
        return "python"
    return "numpy" if type(held).__name__ == "RandomState" else ""


def _is_foreign(value: Any) -> bool:
    return _is_foreign_name(getattr(value, "__module__", None) or "builtins")


@cache
def _is_foreign_name(name: str) -> bool:
    return name.partition(".")[0] in _FOREIGN


def _is_final(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def _may_change(value: Any) -> bool:
    """Whether a value is data: a number, a container, an object of a class that is not PyTorch's."""
    return not isinstance(value, (ModuleType, BuiltinFunctionType, type, nn.Module, *_FUNCTIONS))
