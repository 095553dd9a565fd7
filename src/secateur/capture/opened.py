"""Open functions: Python functions of PyTorch that compute widths inside.

A function mode sees `multi_head_attention_forward` as one call, and none of the views in it. A twin of such a
function, the same code without its own look for function modes, lets the mode see the calls inside.
"""

import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch.nn.functional as F

_OPENED = (F.multi_head_attention_forward,)


@cache
def opened(func: Any) -> Callable[..., Any] | None:
    """The twin whose inner calls a function mode sees; None for functions that stay closed.

    Args:
        func: A function that a mode was called for.

    Example:
        >>> opened(F.linear) is None
        True
    """
    if func not in _OPENED:
        return None
    blind = {**func.__globals__, "has_torch_function": lambda _: False}
    twin = types.FunctionType(func.__code__, blind, func.__name__, func.__defaults__, func.__closure__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin
