"""Places: where in the code of which module a number of a call is written.

A call of PyTorch is reached through frames: the method of a module, functions that it calls, and those that
they call. The way is kept as places in their sources, so that it can be found again in another process.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from secateur.capture.source import (
    SourceMissingError,
    SourceSpot,
    Steps,
    descend,
    encloses,
    find_function,
    resolve,
    source_of,
)

_OWN_FOLDER = str(Path(__file__).parent) + "/"
_OVERRIDES = str(Path(torch.overrides.__file__))
_REFLECTED = frozenset(
    f"__r{name}__" for name in ("add", "sub", "mul", "div", "truediv", "floordiv", "pow", "mod")
)


@dataclass(frozen=True)
class CodePlace:
    """Where a number that a module passes to PyTorch is written.

    Attributes:
        method: The method of the module under which the code runs.
        calls: Calls of functions that lead there, the method's first.
        expression: The expression that gives the number.
        item: Where the expression gives a tuple or a list: which item; of a slice: "start", "stop" or "step".
    """

    method: str
    calls: tuple[SourceSpot, ...]
    expression: SourceSpot
    item: int | str | None = None

    def __str__(self) -> str:
        item = "" if self.item is None else f"[{self.item}]"
        return f"`{self.expression.text}`{item} in {self.expression.function}"


@dataclass(frozen=True, eq=False)
class Stack:
    """The frames that led to a call of PyTorch.

    Attributes:
        module: Name of the module whose method is the outermost of them; None if there is none.
        frames: Code and instruction of each, the outermost first.
        methods: Which of the frames are those of methods of the module, the innermost first.
        function: What was called.
    """

    module: str | None
    frames: tuple[tuple[CodeType, int], ...]
    methods: tuple[int, ...]
    function: Any

    @property
    def depth(self) -> int:
        """How many methods of the module lead to the call."""
        return len(self.methods)


def numbers_in(arg: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], int | float]]:
    """Yield the numbers of a call's arguments and the way to each; tensors are passed over.

    Example:
        >>> [number for _, number in numbers_in(((1, [2, slice(None, 3)]), {"dim": 4}))]
        [1, 2, 3, 4]
    """
    if isinstance(arg, (list, tuple)):
        for at, item in enumerate(arg):
            yield from numbers_in(item, (*way, ("item", at, len(arg))))
    elif isinstance(arg, dict):
        for name, item in arg.items():
            yield from numbers_in(item, (*way, ("key", name, len(arg))))
    elif isinstance(arg, slice):
        for at, item in enumerate((arg.start, arg.stop, arg.step)):
            yield from numbers_in(item, (*way, ("slice", at, 3)))
    elif isinstance(arg, (int, float)) and not isinstance(arg, bool):
        yield way, arg


def current_stack(function: Any, names: Mapping[int, str]) -> Stack:
    """The frames above the caller's that led to a call of PyTorch.

    Args:
        function: What was called.
        names: Names of the model's modules by identity.
    """
    frames: list[tuple[CodeType, int]] = []
    methods: list[int] = []
    owner: nn.Module | None = None
    own = getattr(function, "__code__", None)
    for frame in _frames(sys._getframe(2)):
        code = frame.f_code
        if code is own or (frames and code is frames[-1][0] and code.co_filename == _FUNCTIONAL):
            continue  # a function of PyTorch that asks for modes before it begins
        module = _module_of(frame, names)
        if code.co_filename == _CALLS or (owner is not None and module not in (None, owner)):
            break
        frames.append((code, frame.f_lasti))
        if module is not None:
            owner = module
            methods.append(len(frames) - 1)
    if owner is None:
        return Stack(None, (), (), function)
    frames = frames[: methods[-1] + 1]
    starts = tuple(len(frames) - 1 - at for at in methods)
    return Stack(names[id(owner)], tuple(reversed(frames)), starts, function)


_FUNCTIONAL = str(Path(torch.nn.functional.__file__))
_CALLS = str(Path(torch.nn.modules.module.__file__))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        name = frame.f_code.co_filename
        if name != _OVERRIDES and not name.startswith(_OWN_FOLDER):
            yield frame
        frame = frame.f_back


def _module_of(frame: FrameType, names: Mapping[int, str]) -> nn.Module | None:
    """The module of the model whose method a frame runs."""
    code = frame.f_code
    if not code.co_argcount:
        return None
    held = frame.f_locals.get(code.co_varnames[0])
    if not isinstance(held, nn.Module) or id(held) not in names:
        return None
    return held if method_of(held, code) is not None else None


def method_of(module: nn.Module, code: CodeType) -> str | None:
    """The name of the method of a module that is written in some code."""
    own = vars(module).get(code.co_name)
    if isinstance(own, MethodType) and _written_in(own, code) is not None:
        return code.co_name
    kind: Any = type(module)
    return _class_method(kind, code)


@lru_cache(maxsize=4096)
def _class_method(kind: type, code: CodeType) -> str | None:
    for base in kind.__mro__:
        for name in (code.co_name, *vars(base)):
            value = vars(base).get(name)
            if not isinstance(value, (staticmethod, classmethod)) and _written_in(value, code) is not None:
                return name
    return None


def locate(module: nn.Module, stack: Stack, argument: "Argument", outer: int = 0) -> CodePlace:
    """Find where a number of a call is written.

    Args:
        module: The module that the stack names.
        stack: The frames that led to the call.
        argument: Which number of the call.
        outer: Begin with the innermost method, 0, or one further out.

    Raises:
        SourceMissingError: The code that passes the number cannot be edited; says why.
    """
    frames = list(stack.frames[stack.methods[outer] :])
    function, method = _method(module, frames[0][0])
    calls: list[SourceSpot] = []
    while True:
        inside = max(at for at, frame in enumerate(frames) if encloses(function.__code__, frame[0]))
        source = source_of(function.__code__)
        node = source.running(*frames[inside])
        frames = frames[inside + 1 :]
        if not frames:
            break
        if not isinstance(node, ast.Call):
            raise SourceMissingError(f"`{ast.unparse(node)}` calls the code that passes the number")
        callee = resolve(function, node.func, module if method_of(module, function.__code__) else None)
        function, frames = _next(callee, frames, node)
        calls.append(source.spot(node))
    expression, item = _expression(node, stack.function, argument)
    return CodePlace(method, tuple(calls), source.spot(expression), item)


def _method(module: nn.Module, code: CodeType) -> tuple[FunctionType, str]:
    """The function of a method, and its name."""
    name = method_of(module, code)
    assert name is not None, "the stack begins with a method of the module"
    values = [vars(module).get(name), *(vars(base).get(name) for base in type(module).__mro__)]
    found = (_written_in(value, code) for value in values)
    return next(function for function in found if function is not None), name


def _written_in(value: Any, code: CodeType) -> FunctionType | None:
    return find_function(value, lambda function: function.__code__ is code)


def _next(
    callee: Any, frames: Sequence[tuple[CodeType, int]], node: ast.Call
) -> tuple[FunctionType, list[tuple[CodeType, int]]]:
    """The function that a call runs, past what decorates it, and its frames."""
    if isinstance(callee, classmethod):
        raise SourceMissingError(f"`{ast.unparse(node.func)}` is a method of the class")
    for index in range(len(frames) - 1, -1, -1):
        found = _written_in(callee, frames[index][0])
        if found is not None:
            return found, list(frames[index:])
    raise SourceMissingError(f"what `{ast.unparse(node.func)}` stands for is only known when it runs")


@dataclass(frozen=True)
class Argument:
    """One number among the arguments of a call.

    Attributes:
        way: The way to it in `(args, kwargs)`.
        count: How many positional arguments the call had.
    """

    way: Steps
    count: int


def _expression(node: ast.AST, function: Any, argument: Argument) -> tuple[ast.expr, int | str | None]:
    """The expression of a number in the text of a call."""
    found, left = descend(*_given(node, function, argument))
    if not left:
        return found, None
    kind, at, _ = left[0]
    if len(left) > 1 or kind == "key" or isinstance(found, ast.Slice):
        raise SourceMissingError(f"`{ast.unparse(found)}` does not show the number that it passes")
    return found, at if kind == "item" else ("start", "stop", "step")[at]


def _given(node: ast.AST, function: Any, argument: Argument) -> tuple[ast.expr, Steps]:
    """The argument of a call that holds a number, and the way inside of it."""
    _, (_, at, _), *inside = argument.way
    found: tuple[ast.expr, Steps] | None = None
    if isinstance(node, ast.Call):
        found = _of_call(node, function, argument)
    elif isinstance(node, ast.Subscript) and at == 1:
        found = node.slice, []
    elif isinstance(node, ast.BinOp):
        is_reflected = getattr(function, "__name__", "") in _REFLECTED
        found = (node.left if is_reflected else node.right), []
    elif isinstance(node, ast.AugAssign):
        found = node.value, []
    if found is None:
        raise SourceMissingError(f"`{ast.unparse(node)}` does not show the number that it passes")
    return found[0], [*found[1], *inside]


def _of_call(node: ast.Call, function: Any, argument: Argument) -> tuple[ast.expr, Steps] | None:
    """The argument of a written call, and the way to the one that was passed where it is starred."""
    _, (kind, at, _), *_ = argument.way
    count, receiver = argument.count, _is_method(node, function)
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if isinstance(function, FunctionType):  # it passes on its arguments by name
        parameters = list(inspect.signature(function).parameters)
        kind, at = "key", parameters[at] if kind == "item" else at
        count = len(node.args) + receiver
        if at not in named and at in parameters:
            kind, at = "item", parameters.index(at)
    if kind == "key":
        return (named[at], []) if at in named else None
    return None if at < receiver else _positional(node.args, at - receiver, count - receiver)


def _positional(args: Sequence[ast.expr], at: int, of: int) -> tuple[ast.expr, Steps] | None:
    """A positional argument by number, also among those that one starred argument gives."""
    stars = [index for index, arg in enumerate(args) if isinstance(arg, ast.Starred)]
    if len(stars) > 1:
        return None
    if not stars or at < stars[0]:
        return (args[at], []) if at < len(args) else None
    given = of - len(args) + 1
    if at >= stars[0] + given:
        return args[at - given + 1], []
    star = args[stars[0]]
    assert isinstance(star, ast.Starred)
    return star.value, [("item", at - stars[0], given)]


def _is_method(node: ast.Call, function: Any) -> int:
    """1 if the call is written as a method of its first argument, else 0."""
    kind = getattr(function, "__qualname__", "").rpartition(".")[0]
    is_method = hasattr(function, "__objclass__") or kind in ("Tensor", "TensorBase", "_TensorBase")
    return int(isinstance(node.func, ast.Attribute) and is_method)
