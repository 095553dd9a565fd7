"""Dispatch modes without what PyTorch imports for them: its compiler and sympy, half as long again as itself.

PyTorch wraps what a mode does in `torch._dynamo.disable`, and the constructor of its fake mode reads two
settings of `torch._dynamo`. Both matter only where something is compiled or the cache of the fake mode is
asked, and both are done here when that is so.
"""

import dis
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo import eval_frame as _eval_frame
from torch._subclasses.fake_tensor import FakeTensorConverter, FakeTensorMode
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
            cls.__torch_dispatch__ = _uncompiled(own)  # type: ignore[method-assign]


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the compiler off a function if there is one, as PyTorch does for every mode."""
    guarded = torch._disable_dynamo(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _COMPILER in sys.modules and _compiler_of_frames() is not None:
            return guarded(*args, **kwargs)
        return function(*args, **kwargs)

    return call


class _FrugalFakeMode(FakeTensorMode):
    """The fake mode of PyTorch, which looks at the settings of the compiler when it first needs them."""

    def __init__(self) -> None:
        super(FakeTensorMode, self).__init__()
        import torch._functorch.config as functorch
        import torch.nested._internal.nested_tensor as nested

        settings: Any = functorch
        self.allow_fallback_kernels = True
        self.propagate_real_tensors = settings.fake_tensor_propagate_real_tensors
        self.fake_tensor_converter = FakeTensorConverter(copy_data=self.propagate_real_tensors, export=False)
        self.static_shapes = True
        self.allow_scalar_outputs = False
        self._allow_unsafe_data_ptr_access = settings.fake_tensor_allow_unsafe_data_ptr_access
        self.allow_meta = settings.fake_tensor_allow_meta
        self.allow_non_fake_inputs = True
        self.in_kernel_invocation = False
        self.enter_stack = []
        self.shape_env = None
        self._stack_trace: Any = []  # only messages about two modes show it
        self._stack = None
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self.nt_tensor_id_initial_count = nested._tensor_id_counter
        self.nt_tensor_id_counter = self.nt_tensor_id_initial_count

    def __getattr__(self, name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(name)
        import torch._dynamo.config as compiler

        settings: Any = compiler
        self.cache_enabled = settings.fake_tensor_cache_enabled and not self.propagate_real_tensors
        self.cache_crosscheck_enabled = settings.fake_tensor_cache_crosscheck_enabled
        return self.__dict__[name]


_LATER = ("cache_enabled", "cache_crosscheck_enabled")


def _sets(function: Any) -> set[str]:
    """The attributes that a method sets."""
    return {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}


_IS_KNOWN = _sets(FakeTensorMode.__init__) == _sets(_FrugalFakeMode.__init__) | set(_LATER)
"""Whether this release's fake mode is made as ours is."""


def fake_mode() -> FakeTensorMode:
    """A fake mode for tensors of known sizes, in which models may hold tensors that are none of its own.

    Example:
        >>> with fake_mode():
        ...     torch.empty(2, 3).shape
        torch.Size([2, 3])
    """
    return _FrugalFakeMode() if _IS_KNOWN else FakeTensorMode(allow_non_fake_inputs=True)
