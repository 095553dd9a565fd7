"""Dispatch modes without what PyTorch imports for them: its compiler and sympy, half as long again as itself.

PyTorch wraps what a mode does in `torch._dynamo.disable`. That matters only where something is compiled, and
is done here when that is so.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo import eval_frame as _eval_frame
from torch.utils._python_dispatch import TorchDispatchMode

_COMPILER = "torch._dynamo"

_compiler_of_frames: Callable[[], Any] = getattr(_eval_frame, "get_eval_frame_callback", lambda: True)
"""What looks at the frames of this thread now: None where nothing does that would have to be kept off."""


class Mode(TorchDispatchMode):
    """A dispatch mode; what it does is never compiled."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its compiler, only to keep it off

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__torch_dispatch__")
        if own is not None:
            cls.__torch_dispatch__ = uncompiled(own)  # type: ignore[method-assign]


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the compiler off a function if there is one, as PyTorch does for every mode."""
    guarded = torch._disable_dynamo(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _COMPILER in sys.modules and _compiler_of_frames() is not None:
            return guarded(*args, **kwargs)
        return function(*args, **kwargs)

    return call
