"""Shadows: copies of a model and of its inputs that a run of ours may change as it likes."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from secateur.capture.copies import copy_module
from secateur.capture.fakes import faked
from secateur.capture.inputs import map_inputs
from secateur.capture.walk import walk_modules


def shadow(model: nn.Module, fake: FakeTensorMode | None = None) -> nn.Module:
    """Copy a model for a run, which may write into it, assign to its parameters or set their `data`.

    Args:
        model: Any module; not changed, and no tensor of the copy shares its memory.
        fake: Makes parameters that have no numbers and need no memory; buffers keep theirs.
    """
    memo: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be written to
        if fake is not None:
            plain = [
                held
                for held in model.parameters()
                if type(held) is nn.Parameter and type(held.data) is Tensor
            ]
            users = Counter(map(_storage, plain))
            for held in plain:
                memo[id(held)] = _faked_parameter(fake, held, is_alone=users[_storage(held)] == 1)
        return copy_module(model, memo)


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor shows; 0 if it has none of its own."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0


def _faked_parameter(fake: FakeTensorMode, held: nn.Parameter, *, is_alone: bool) -> nn.Parameter:
    """A parameter without numbers; others on the same memory are on one memory again."""
    if not is_alone:
        return nn.Parameter(fake.from_tensor(held.detach(), static_shapes=True), held.requires_grad)
    made: Any = _faked(fake, held.detach())  # and what `nn.Parameter` does, without asking the mode
    made.requires_grad_(held.requires_grad)
    made._is_param = True
    parameter: nn.Parameter = made
    return parameter


def _faked(fake: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A fake tensor like a real one, made at once where sizes and strides tell all."""
    if (
        type(tensor) is not Tensor
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or tensor.is_meta
        or not tensor.dim()  # the fake mode remembers a single number
        or tensor.storage_offset()
        or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.itemsize
    ):
        made: Tensor = fake.from_tensor(tensor.detach(), static_shapes=True)
        return made
    with no_dispatch():
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return faked(fake, empty, tensor.device)


def own_inputs(inputs: Any, fake: FakeTensorMode | None) -> Any:
    """Copies of the inputs, which a run may write into."""
    if fake is not None:
        return map_inputs(inputs, lambda leaf: _faked(fake, leaf))
    copies: dict[int, Tensor] = {}
    return map_inputs(inputs, lambda leaf: copies.setdefault(id(leaf), leaf.detach().clone()))


def has_other_attributes(model: nn.Module, other: nn.Module) -> bool:
    """Whether modules hold other numbers or words than those of another model, or something beside them.

    Args:
        model: Any module.
        other: A copy of it, perhaps after a run.
    """
    ours, theirs = ([vars(module) for _, module in walk_modules(one)] for one in (model, other))
    return len(ours) != len(theirs) or any(map(_differs, ours, theirs))


def _differs(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    if ours.keys() != theirs.keys():
        return True
    return any(
        value is not other and name != "training" and _plain(value) != _plain(other)
        for (name, value), other in zip(ours.items(), map(theirs.get, ours), strict=True)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return int(value)  # a traced one would remember what it was compared with
    return value if isinstance(value, (float, str)) else value is None
