"""Closures: functions that a model holds and that reach back into it, bound to a copy of it.

`copy.deepcopy` hands functions back as they are. A `forward` that was replaced on the instance, by a lambda
over the model or a wrapper around its old `forward`, would make every copy run the original's layers. Such a
function gets a twin: the same code, whose closure, defaults and global names hold what the copy holds.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from secateur.capture.walk import walk_modules

_OWN_OF_MODULES = ("_parameters", "_buffers", "_modules")
_PLAIN = (int, float, complex, bool, str, bytes, type(None), type)
_NOTHING = frozenset(_PLAIN)
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set))
_MOST_OBJECTS = 10_000
"""So many objects are looked at on the way from a function to the model."""


@dataclass(frozen=True, eq=False)
class Twin:
    """A function and its twin, which is empty until the copy is made.

    Attributes:
        function: The function that the original holds.
        twin: The one for the copy.
    """

    function: FunctionType
    twin: FunctionType

    def fill(self, memo: dict[int, Any]) -> None:
        """Bind the twin to the copy.

        Args:
            memo: Copies by the identity of what they are copies of, as `copy.deepcopy` left it.
        """
        for cell, made in zip(self.function.__closure__ or (), self.twin.__closure__ or (), strict=True):
            if is_filled(cell) and not is_filled(made):
                made.cell_contents = copied_value(cell.cell_contents, memo)
        if self.twin.__globals__ is not self.function.__globals__:
            for name, value in _globals_of(self.function).items():
                self.twin.__globals__[name] = copied_value(value, memo)
        self.twin.__defaults__ = copied_value(self.function.__defaults__, memo)
        self.twin.__kwdefaults__ = copied_value(self.function.__kwdefaults__, memo)
        self.twin.__dict__.update(copied_value(vars(self.function), memo))


def twins_of(model: nn.Module) -> list[Twin]:
    """Make a twin of each function that a model holds and that reaches one of its modules or tensors.

    Functions are looked for in the attributes of modules, in the containers, methods and plain objects there,
    and in the closures, defaults and global names of other functions.

    Args:
        model: Any module; not changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> model.forward = lambda x: model[1](model[0](x))
        >>> [twin.function is model.forward for twin in twins_of(model)]
        [True]
    """
    targets = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    held: list[Any] = []
    for _, module in walk_modules(model):
        targets.add(id(module))
        for name, value in vars(module).items():
            if type(value) in _NOTHING or (type(value) in _CONTAINERS and not value):
                continue
            if isinstance(value, Tensor):
                targets.add(id(value))
            elif name not in _OWN_OF_MODULES and _may_hold_functions(value):
                held.append(value)
    if not held:
        return []
    functions = [value for value in _walk(held, targets) if isinstance(value, FunctionType)]
    reaching = [one for one in functions if any(id(value) in targets for value in _walk([one], targets))]
    cells: dict[int, CellType] = {}
    spaces: dict[int, dict[str, Any]] = {}
    return [Twin(one, _empty(one, cells, _names_for(one, spaces, targets))) for one in reaching]


def copied_value(value: Any, memo: dict[int, Any]) -> Any:
    """Copy a value if it holds something that was copied; else hand it back as it is.

    Args:
        value: Any value.
        memo: Copies by the identity of what they are copies of; what is copied here is added.
    """
    if id(value) in memo:
        return memo[id(value)]
    if not any(id(part) in memo for part in _walk([value], memo)):
        return value
    if isinstance(value, MethodType):
        return MethodType(copied_value(value.__func__, memo), copied_value(value.__self__, memo))
    return copy.deepcopy(value, memo)


def _may_hold_functions(value: Any) -> bool:
    """Whether to look into an attribute: most of what modules hold is a number, or empty."""
    if type(value) in _PLAIN or isinstance(value, (Tensor, nn.Module)):
        return False
    return bool(value) if isinstance(value, (dict, list, tuple, set)) else True


def _walk(roots: list[Any], targets: Mapping[int, Any] | set[int]) -> Iterator[Any]:
    """Everything that can be reached from some objects, breadth first; targets are not gone through."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting and len(seen) < _MOST_OBJECTS:
        found: list[Any] = []
        for value in waiting:
            if id(value) in seen or type(value) in _PLAIN:
                continue
            seen.add(id(value))
            yield value
            if id(value) not in targets and not isinstance(value, Tensor):
                found.extend(_parts(value))
        waiting = found


def _parts(value: Any) -> Iterator[Any]:
    """What a value holds."""
    if isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if is_filled(cell))
        yield from (value.__defaults__, value.__kwdefaults__, vars(value))
        yield from _globals_of(value).values()
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords, vars(value))
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not _is_of_python(value):
        yield from vars(value).values()


def _is_of_python(value: Any) -> bool:
    """Whether a value belongs to Python or PyTorch themselves: a package, a device, a logger."""
    return type(value).__module__.partition(".")[0] in ("builtins", "torch", "logging", "types", "threading")


def _globals_of(function: FunctionType) -> dict[str, Any]:
    """The global names that a function's code uses and that may lead to a model.

    Modules of networks, tensors, methods, lists and dicts, and functions of the same file.
    """
    own = function.__globals__
    found: dict[str, Any] = {}
    for name in _names_in(function.__code__):
        value = own.get(name)
        is_sibling = isinstance(value, FunctionType) and value.__globals__ is own
        if is_sibling or isinstance(value, (nn.Module, Tensor, list, tuple, dict, MethodType, partial)):
            found[name] = value
    return found


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def is_filled(cell: CellType) -> bool:
    """Whether a cell of a closure holds something."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _names_for(
    function: FunctionType, spaces: dict[int, dict[str, Any]], targets: set[int]
) -> dict[str, Any]:
    """The global names of a twin: the function's own, or some of its own where one leads to the model.

    Functions of the same file share theirs, as the originals do.
    """
    own = function.__globals__
    if not any(id(part) in targets for part in _walk(list(_globals_of(function).values()), targets)):
        return own
    names = spaces.setdefault(id(own), {})
    used = ("__builtins__", "__name__", *_names_in(function.__code__))
    names.update((name, own[name]) for name in used if name in own)
    return names


def _empty(function: FunctionType, cells: dict[int, CellType], names: dict[str, Any]) -> FunctionType:
    """A function with the same code, whose cells are to be filled; functions that share a cell still do."""
    closure = tuple(cells.setdefault(id(cell), CellType()) for cell in function.__closure__ or ())
    twin = FunctionType(function.__code__, names, function.__name__, None, closure)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    twin.__annotations__, twin.__doc__ = function.__annotations__, function.__doc__
    return twin
