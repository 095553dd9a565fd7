"""State dicts of masked models: `weight_orig` and `weight_mask` where the plain one has `weight`."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from secateur.mask.hook import MASK, ORIG, in_order


def masked_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The parameters of which a state dict holds value and mask.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> masked_names({"a.weight_orig": one, "a.weight_mask": one, "b_mask": one})
        ['a.weight']
    """
    found = (name.removesuffix(MASK) for name in tensors if name.endswith(MASK))
    return [name for name in found if name + ORIG in tensors]


def put_masks(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the masks of a state dict on a model that lacks them, by `torch.nn.utils.prune`.

    Args:
        model: Changed in place, so that the state dict can be loaded into it.
        tensors: The state dict.
    """
    modules = dict(model.named_modules())
    for name in masked_names(tensors):
        path, _, parameter = name.rpartition(".")
        module = modules.get(path)
        if module is not None and module._parameters.get(parameter) is not None:
            mask = tensors[name + MASK].to(module._parameters[parameter].device)
            with in_order(module):
                torch_prune.custom_from_mask(module, parameter, mask)
