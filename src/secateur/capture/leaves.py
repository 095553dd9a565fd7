"""Functions that `torch.fx` must not look into.

`torch.fx.wrap` makes a global function a leaf: symbolic tracing records the call instead of running it. The
edited copy of such a function is a method with a name of its own, which that registration does not reach.
"""

import ast
from collections.abc import Callable
from functools import wraps
from types import FunctionType, MethodType
from typing import Any

from torch.fx import Proxy, _symbolic_trace


class FxLeaf:
    """A method that symbolic tracing records as one call; for everybody else the plain method.

    Args:
        method: What is called, with the module first.
        space: The globals that hold the function of which the method is a copy; while `torch.fx` traces,
            it keeps a wrapper of the function there.
        name: The name in them.
    """

    def __init__(self, method: Callable[..., Any], space: dict[str, Any], name: str) -> None:
        self.method, self.space, self.name, self.original = method, space, name, space.get(name)

    def __get__(self, module: Any, kind: type) -> Any:
        if module is None:
            return self.method
        bound = MethodType(self.method, module)
        now = self.space.get(self.name)
        traced = now is not self.original and getattr(now, "__wrapped__", None) is self.original
        return _recorded(bound) if traced else bound


def _recorded(method: MethodType) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        proxy = next((value for value in (*args, *kwargs.values()) if isinstance(value, Proxy)), None)
        if proxy is None:
            return method(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", method, args, kwargs)

    return call


def leaf_if_wrapped(method: Callable[..., Any], function: FunctionType, called: ast.expr) -> Any:
    """A method that stands for what a function calls; as a leaf if `torch.fx.wrap` named that.

    Args:
        method: The edited copy of what is called.
        function: The function that calls.
        called: What it calls, as written.
    """
    space, name = function.__globals__, getattr(called, "id", "")
    wrapped = (id(space), name) in getattr(_symbolic_trace, "_wrapped_fns_to_patch", {})
    return FxLeaf(method, space, name) if wrapped else method
