"""Classes that PyTorch makes for one module: a copy of the module must not share them.

`torch.nn.utils.parametrize` gives a parametrized module a class of its own, with a property in place of each
parametrized tensor, and `remove_parametrizations` takes the property off that class again. Copies by `copy`
keep the class, so that removing a parametrization from the one would take the tensor off the other.
"""

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized


def separate_classes(copied: nn.Module) -> None:
    """Give every parametrized module a class that no other module has, in place.

    Args:
        copied: A copy; what it is a copy of keeps its classes.

    Example:
        >>> import copy
        >>> from torch.nn.utils import parametrize, parametrizations
        >>> layer = parametrizations.weight_norm(nn.Linear(2, 2))
        >>> other = copy.deepcopy(layer)
        >>> separate_classes(other)
        >>> _ = parametrize.remove_parametrizations(other, "weight")
        >>> layer.weight.shape
        torch.Size([2, 2])
    """
    for module in copied.modules():
        kind: Any = type(module)
        if is_parametrized(module) and any(name in vars(kind) for name in _parametrized(module)):
            module.__class__ = type(kind)(kind.__name__, kind.__bases__, dict(vars(kind)))


def _parametrized(module: nn.Module) -> list[str]:
    tables: Any = module.parametrizations
    return list(tables)
