"""What the fake mode answered before: the same operator on tensors of the same form makes the same form.

A network repeats its blocks, and a model is recorded several times, so most calls that only the fake mode can
tell are asked again and again. An answer is kept by the operator, the sizes, strides, types and devices of
its tensors, and its numbers with their types. Kept are answers of PyTorch's own operators that write nothing,
whose results have memory of their own, and that depend on nothing else: PyTorch's cache of its fake mode
holds the same ones, at several times the price of a look.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from secateur.capture.fakes import faked

_MOST = 8192
"""So many answers are kept; then all are forgotten."""

_FINAL = (torch.dtype, torch.device, torch.layout, torch.memory_format, str, type(None))
_NUMBERS = (int, float, bool)
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
_OWN = ("aten", "prims")
_INDEX = torch.ops.aten.index.Tensor
_MASKS = (torch.bool, torch.uint8)

Form = tuple[torch.Size, tuple[int, ...], torch.dtype]

_ANSWERS: dict[tuple[Any, ...], tuple[Any, tuple[Form, ...], torch.device] | None] = {}


def is_answerable(func: Any) -> bool:
    """Whether the form of what an operator makes depends on that of its operands alone.

    Args:
        func: The operator.

    Example:
        >>> is_answerable(torch.ops.aten.add.Tensor), is_answerable(torch.ops.aten.nonzero.default)
        (True, False)
    """
    if not isinstance(func, OpOverload) or func.namespace not in _OWN:
        return False
    if _TAGS & {*func.tags} and func is not _INDEX:
        return False
    schema = func._schema
    return not schema.is_mutable and all(
        one.alias_info is None for one in (*schema.arguments, *schema.returns)
    )


class Question:
    """A call on fake tensors.

    Args:
        func: An operator that is answerable.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    __slots__ = ("key", "mode", "storages")

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.mode: FakeTensorMode | None = None
        self.storages: set[int] = set()
        key: list[Any] = [id(func), torch.get_default_dtype(), len(args)]
        # An index that is a mask makes as many results as there are True in it.
        is_mask = func is _INDEX and (
            len(args) != 2 or any(getattr(one, "dtype", None) in _MASKS for one in args[1])
        )
        named = (*kwargs, *kwargs.values())
        is_told = not is_mask and all(self._add(arg, key) for arg in (*args, *named))
        if "attention" in func._schema.name:  # kernels differ in the strides of what they make
            flags = torch.backends.cuda
            key += [flags.flash_sdp_enabled(), flags.mem_efficient_sdp_enabled(), flags.math_sdp_enabled()]
        running = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        if self.mode is None:  # a factory
            self.mode = running
        is_told = is_told and self.mode is not None and self.mode is running
        self.key = tuple(key) if is_told else None

    def _add(self, arg: Any, key: list[Any]) -> bool:
        """Add an argument to the key; whether it can be."""
        kind = type(arg)
        if kind is FakeTensor:
            if arg.constant is not None or arg.layout is not torch.strided or arg.is_quantized:
                return False
            if arg._has_symbolic_sizes_strides or arg.dtype.is_complex or arg.is_neg():
                return False
            if self.mode is None:
                self.mode = arg.fake_mode
            elif arg.fake_mode is not self.mode:
                return False
            key += (arg.shape, arg.stride(), arg.dtype, arg.device)
            self.storages.add(arg.untyped_storage()._cdata)
            return True
        if kind in _NUMBERS:
            key += (kind, arg)
            return True
        if kind is list or kind is tuple:
            key.append(len(arg))
            return all(self._add(one, key) for one in arg)
        key.append(arg)
        return kind in _FINAL

    def answer(self) -> Any:
        """What was answered before, made anew; None if nothing was, or what was cannot be made anew."""
        known = _ANSWERS.get(self.key) if self.key is not None else None
        if known is None:
            return None
        kind, forms, device = known
        assert self.mode is not None, "there is a key"
        made = []
        with no_dispatch():
            for shape, stride, dtype in forms:
                empty = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
                made.append(faked(self.mode, empty, device))
        return made[0] if kind is None else kind(made)

    def keep(self, func: Any, made: Any) -> None:
        """Keep what was answered, if it has a form alone.

        Args:
            func: The operator.
            made: What it made.
        """
        if self.key is None or self.key in _ANSWERS:
            return
        parts = [made] if isinstance(made, Tensor) else made
        if type(parts) not in (list, tuple) or not parts:
            return
        forms = tuple(form for part in parts if (form := self._form(part)) is not None)
        if len(forms) < len(parts) or len({part.device for part in parts}) > 1:
            return
        if len({part.untyped_storage()._cdata for part in parts}) < len(parts):
            return
        if len(_ANSWERS) >= _MOST:
            _ANSWERS.clear()
        _KEPT[id(func)] = func
        _ANSWERS[self.key] = None if isinstance(made, Tensor) else type(made), forms, parts[0].device

    def _form(self, made: Any) -> Form | None:
        """The form of a fake tensor with memory of its own, all of which it shows; else None."""
        if type(made) is not FakeTensor or made.constant is not None or made.fake_mode is not self.mode:
            return None
        if made.layout is not torch.strided or made.is_quantized or made._has_symbolic_sizes_strides:
            return None
        if made.dtype.is_complex or made.is_neg() or made.storage_offset() or made.requires_grad:
            return None
        if made.untyped_storage()._cdata in self.storages:
            return None
        with no_dispatch():
            again = torch.empty_strided(made.shape, made.stride(), dtype=made.dtype, device="meta")
        if again.untyped_storage().nbytes() != made.untyped_storage().nbytes():
            return None
        return made.shape, made.stride(), made.dtype


_KEPT: dict[int, Any] = {}
"""Operators whose identity stands in a key."""
