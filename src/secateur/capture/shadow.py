"""Shadows: copies of a model and of its inputs that a run of ours may change as it likes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from secateur.capture.copies import copy_module
from secateur.capture.inputs import map_inputs


def shadow(model: nn.Module, fake: FakeTensorMode | None = None) -> nn.Module:
    """Copy a model for a run, which may write into it, assign to its parameters or set their `data`.

    Args:
        model: Any module; not changed, and no tensor of the copy shares its memory.
        fake: Makes parameters that have no numbers and need no memory; buffers keep theirs.
    """
    memo: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be written to
        if fake is not None:
            for held in model.parameters():
                if type(held) is nn.Parameter and type(held.data) is Tensor:
                    memo[id(held)] = nn.Parameter(_faked(fake, held.detach()), held.requires_grad)
        return copy_module(model, memo)


def _faked(fake: FakeTensorMode, tensor: Tensor) -> Tensor:
    made: Tensor = fake.from_tensor(tensor, static_shapes=True)
    return made


def own_inputs(inputs: Any, fake: FakeTensorMode | None) -> Any:
    """Copies of the inputs, which a run may write into."""
    if fake is not None:
        return map_inputs(inputs, lambda leaf: _faked(fake, leaf.detach()))
    copies: dict[int, Tensor] = {}
    return map_inputs(inputs, lambda leaf: copies.setdefault(id(leaf), leaf.detach().clone()))


def attributes_of(model: nn.Module) -> list[Any]:
    """What a run may change in modules: numbers, and whether something is there."""
    return [
        (name, _plain(value))
        for module in model.modules()
        for name, value in vars(module).items()
        if name != "training"
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return int(value)  # a traced one would remember what it was compared with
    return value if isinstance(value, (float, str)) else value is None
