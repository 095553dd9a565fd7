"""Unwrap: the module inside of what compiles, spreads or averages it.

Wrappers run a module's Python elsewhere or otherwise; pruning needs that module itself. What comes out is a
plain module, to be wrapped again.
"""

import warnings

import torch
from torch import nn

from secateur.errors import RequestError, UnwrapWarning

_INNER = {
    "OptimizedModule": ("_orig_mod", "torch.compile"),
    "DistributedDataParallel": ("module", "DistributedDataParallel"),
    "DataParallel": ("module", "DataParallel"),
    "AveragedModel": ("module", "AveragedModel"),
    "_FabricModule": ("_original_module", "Lightning Fabric"),
}
"""By class: the attribute that holds the module, and what people call the wrapper."""

_SHARDING = {"FullyShardedDataParallel", "FSDPModule", "XlaFullyShardedDataParallel", "DeepSpeedEngine"}


def unwrap(model: nn.Module) -> nn.Module:
    """Take a module out of its wrappers.

    Warns with `UnwrapWarning` for each wrapper that is taken off.

    Args:
        model: A module, perhaps of `torch.compile`, `DataParallel`, `DistributedDataParallel`,
            `AveragedModel` or Lightning Fabric.

    Returns:
        The module inside, the same object that the wrapper holds; a module that is no wrapper as it is.

    Raises:
        RequestError: It is no module; a ScriptModule, whose Python is gone; or its parameters are spread over
            several processes.

    Example:
        >>> import warnings
        >>> inner = nn.Linear(2, 2)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     unwrap(nn.DataParallel(inner)) is inner, str(caught[0].message)
        (True, 'DataParallel was unwrapped: the result is a plain Linear; wrap it again if you need to')
    """
    while True:
        require_python(model)
        kinds = [kind.__name__ for kind in type(model).__mro__]
        name = next((kind for kind in kinds if kind in _INNER), None)
        if name is None:
            break
        attribute, wrapper = _INNER[name]
        inner = getattr(model, attribute, None)
        if not isinstance(inner, nn.Module):
            break  # a class of the same name
        model = inner
        _warn(
            f"{wrapper} was unwrapped: the result is a plain {type(model).__name__}; "
            "wrap it again if you need to"
        )
    return model


def warn_of_compiled(model: nn.Module) -> None:
    """Warn with `UnwrapWarning` if a module was compiled in place: what is made of it is not compiled."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        _warn(f"{type(model).__name__} was compiled in place, the result is not; compile it if you need to")


def _warn(text: str) -> None:
    warnings.warn(text, UnwrapWarning, stacklevel=4)


def require_python(model: nn.Module) -> None:
    """Refuse what is no module whose Python and whole parameters are at hand."""
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model is {type(model).__name__}, not a torch.nn.Module", do="pass the module itself"
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise RequestError(
                f"{name or 'model'} is a {type(module).__name__}: its Python is gone",
                ["pruning changes the modules that a script was made from"],
                "pass the module that was scripted or traced, and script the result",
            )
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & _SHARDING:
            raise RequestError(
                f"{name or 'model'} is a {type(module).__name__}: its parameters are spread over processes",
                do="prune first, then shard the result",
            )
