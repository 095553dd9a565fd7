"""Slicing: a new model whose tensors hold the kept positions only; the original is not touched."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.cut.corrections import Correction, correct, keep_off_fast_path
from secateur.cut.linked import linked
from secateur.cut.shorten import renumber
from secateur.graph.keep import Mask

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def slice_tensor(tensor: Tensor, masks: Sequence[Mask]) -> Tensor:
    """Take the kept positions of every dim; the memory format stays.

    Args:
        tensor: Any tensor.
        masks: One mask for each dim.

    Example:
        >>> import numpy as np
        >>> slice_tensor(torch.arange(4).view(2, 2), [np.array([True, False]), np.array([True, True])])
        tensor([[0, 1]])
    """
    result = tensor.detach()
    for dim, mask in enumerate(masks):
        if not mask.all():
            index = torch.from_numpy(mask.nonzero()[0]).to(tensor.device)
            result = result.index_select(dim, index)
    channels_last = _CHANNELS_LAST.get(tensor.dim())
    if channels_last and tensor.is_contiguous(memory_format=channels_last) and not tensor.is_contiguous():
        return result.clone(memory_format=channels_last)
    return result if result.data_ptr() != tensor.data_ptr() else result.clone()


def slice_model(
    model: nn.Module,
    masks: Mapping[str, Sequence[Mask]],
    attributes: Mapping[str, Mapping[str, Any]],
    corrections: Mapping[str, Sequence[Correction]] | None = None,
    numbers: Mapping[str, Mapping[str, Any]] | None = None,
) -> nn.Module:
    """Make a new model of the same class with sliced tensors and new integers.

    Ties, hooks, `requires_grad`, training mode, dtype, device and memory format are kept. Full-size tensors
    that are sliced are never copied.

    Args:
        model: The original; not changed.
        masks: For each parameter or buffer that shrinks, a mask for each dim.
        attributes: For each module, the attributes to set; dots lead into objects and tuples.
        corrections: For each module, the calls to correct.
        numbers: For each module, the fields of configs to set; modules that share a config go on doing so.
    """
    memo: dict[int, Any] = {}
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    with torch.inference_mode(False):  # tensors made in a caller's inference mode could not be trained
        for name, dims in masks.items():
            tensor = named[name]
            if id(tensor) in memo:
                continue
            sliced = slice_tensor(tensor, dims)
            if isinstance(tensor, nn.Parameter):
                sliced = nn.Parameter(sliced, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = sliced
        result = copy_module(model, memo)
    renumber(result, numbers or {})
    for name, values in attributes.items():
        module = result.get_submodule(name)
        for path, value in values.items():
            set_field(module, path.split("."), value)
    for name, changes in (corrections or {}).items():
        correct(result.get_submodule(name), changes)
    keep_off_fast_path(result)
    return result


_OWN = frozenset(vars(nn.Module()))
"""What PyTorch keeps in every module: its tables of parts and hooks."""


def set_field(module: nn.Module, path: Sequence[str], value: Any) -> None:
    """Set an attribute of a module, or a number inside one: of a config, a tuple, a dict.

    Other modules may hold the objects on the way, too: this one gets `secateur.cut.linked.linked` ones,
    unless they say so already.

    Example:
        >>> module = nn.Identity()
        >>> module.shape = (3, 4)
        >>> set_field(module, ["shape", "1"], 2)
        >>> module.shape
        (3, 2)

    Raises:
        AttributeError: The path leads into what PyTorch or Python keeps there, as no cut of ours does.
    """
    first, *rest = path
    if first in _OWN or first.startswith("__"):
        raise AttributeError(f"{first} is no number of a module's own")
    if not rest:
        setattr(module, first, value)
    elif not _says(module.__dict__[first], rest, value):
        setattr(module, first, _with_field(module.__dict__[first], rest, value))


def _says(held: Any, path: Sequence[str], value: Any) -> bool:
    """Whether a number inside an object is what it shall be."""
    for name in path:
        if isinstance(held, (tuple, list)):
            held = held[int(name)]
        else:
            held = (held if isinstance(held, dict) else held.__dict__)[name]
    return type(held) is type(value) and bool(held == value)


def _with_field(held: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    if isinstance(held, (tuple, list)):
        parts = list(held)
        parts[int(first)] = _with_field(parts[int(first)], rest, value) if rest else value
        return type(held)(parts)
    if isinstance(held, dict):
        return type(held)({**held, first: _with_field(held[first], rest, value) if rest else value})
    return linked(held, {first: _with_field(held.__dict__[first], rest, value) if rest else value})
