"""Fake tensors in a sixth of the time: what PyTorch's constructor sets is taken from one that it made.

A record makes one for every result, and the constructor of PyTorch spends most of its time on forms of its
arguments that none of ours has. Where the constructor of a release names something that we do not know, it is
called each time.
"""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConfig, FakeTensorMode

_MADE = "_secateur_made"

_WORDS = """
    _C _FAKE_TENSOR_CONSTRUCTOR_IGNORED_STATE_ATTRS _allow_unsafe_data_ptr_access _debug_trace _is_param
    _make_subclass _set_throw_on_mutable_data_ptr _set_warn_deprecated_on_mutable_data_ptr allow_meta
    AssertionError CapturedTraceback FakeTensor FakeTensorConfig FakeTensorMode Tensor TypeError ValueError
    cast constant debug device dict dispatch_keys extract fake_device fake_mode isinstance item_memo iter
    nested_int_memo next nonzero_memo object pop pytype real_tensor requires_grad str torch type
    unique_consecutive_memo unique_memo
"""
"""All that the constructor names: checks of its arguments, one call each of two functions, attributes."""

_CALLS = {"_make_subclass", "_set_throw_on_mutable_data_ptr", "_set_warn_deprecated_on_mutable_data_ptr"}

_IS_KNOWN = (
    _CALLS <= {*FakeTensor.__new__.__code__.co_names} <= {*_WORDS.split()} and not FakeTensorConfig.debug
)
"""Whether this release's constructor is the one that we know."""


def faked(mode: FakeTensorMode, meta: Tensor, device: torch.device) -> FakeTensor:
    """Make a fake tensor, as `FakeTensor(mode, meta, device)` does.

    Args:
        mode: Whose it is.
        meta: A tensor on the meta device with its sizes and strides.
        device: Where it pretends to be.

    Example:
        >>> from secateur.capture.frugal import fake_mode
        >>> mode, meta = fake_mode(), torch.empty(2, 3, device="meta")
        >>> one, two = (faked(mode, meta, torch.device("cpu")) for _ in range(2))
        >>> two, two.device, vars(one) == vars(two)
        (FakeTensor(..., size=(2, 3)), device(type='cpu'), True)
    """
    made: Any
    templates: dict[torch.device, dict[str, Any]] = mode.__dict__.setdefault(_MADE, {})
    template = templates.get(device)
    if template is None or meta.requires_grad or not meta.is_meta:
        made = FakeTensor(mode, meta, device)
        if _IS_KNOWN:
            templates[device] = {**vars(made), "fake_mode": None}
        return made
    make: Any = Tensor._make_subclass
    made = make(
        FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=template["_fake_device"]
    )
    if mode._allow_unsafe_data_ptr_access:
        torch._C._set_warn_deprecated_on_mutable_data_ptr(made)
    else:
        torch._C._set_throw_on_mutable_data_ptr(made)
    made.__dict__.update(template)
    made.__dict__["fake_mode"] = mode
    return made
