"""Slicing: a new model whose tensors hold the kept positions only; the original is not touched."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.keep import Mask


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
    if result.dim() == 4 and _is_channels_last(tensor):
        return result.contiguous(memory_format=torch.channels_last)
    return result if result.data_ptr() != tensor.data_ptr() else result.clone()


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def slice_model(
    model: nn.Module,
    masks: Mapping[str, Sequence[Mask]],
    attributes: Mapping[str, Mapping[str, Any]],
) -> nn.Module:
    """Make a new model of the same class with sliced tensors and new integers.

    Ties, hooks, `requires_grad`, training mode, dtype, device and memory format are kept. Full-size tensors
    that are sliced are never copied.

    Args:
        model: The original; not changed.
        masks: For each parameter or buffer that shrinks, a mask for each dim.
        attributes: For each module, the attributes to set.
    """
    memo: dict[int, Any] = {}
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    for name, dims in masks.items():
        tensor = named[name]
        if id(tensor) in memo:
            continue
        sliced = slice_tensor(tensor, dims)
        if isinstance(tensor, nn.Parameter):
            sliced = nn.Parameter(sliced, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = sliced
    result = copy.deepcopy(model, memo)
    for name, values in attributes.items():
        module = result.get_submodule(name)
        for attribute, value in values.items():
            setattr(module, attribute, value)
    return result
