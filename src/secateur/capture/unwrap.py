"""Unwrap: the module inside of what compiles, spreads or averages it.

Wrappers run a module's Python elsewhere or otherwise; pruning needs that module itself. What comes out is a
plain module, to be wrapped again.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.capture.copies import copy_module
from secateur.capture.walk import walk_modules
from secateur.errors import RequestError, UnwrapWarning

_INNER = {
    "OptimizedModule": ("_orig_mod", "torch.compile"),
    "DistributedDataParallel": ("module", "DistributedDataParallel"),
    "DataParallel": ("module", "DataParallel"),
    "AveragedModel": ("module", "AveragedModel"),
    "_FabricModule": ("_original_module", "Lightning Fabric"),
    "ultralytics.engine.model.Model": ("model", "YOLO"),
}
"""By class, with its module where the name is a common one: the attribute that holds the module, and what
people call the wrapper."""

_SPREAD = {"DTensor", "ShardedTensor"}
_SHARDING = {"FullyShardedDataParallel", "FSDPModule", "XlaFullyShardedDataParallel", "DeepSpeedEngine"}


def unwrap(model: nn.Module) -> nn.Module:
    """Take a module out of its wrappers.

    Warns with `UnwrapWarning` for each wrapper that is taken off.

    Args:
        model: A module, perhaps of `torch.compile`, `DataParallel`, `DistributedDataParallel`,
            `AveragedModel` or Lightning Fabric; or a `YOLO` of Ultralytics.

    Returns:
        The module inside, the same object that the wrapper holds; a module that is no wrapper as it is. One
        that was made in inference mode as a copy: its own tensors cannot be trained or written to.

    Raises:
        RequestError: It is no module; a ScriptModule, whose Python is gone; a `YOLO` of an exported file; or
            its parameters are spread over several processes.

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
        kinds = (kind for one in type(model).__mro__ for kind in (one.__name__, _full_name(one)))
        name = next((kind for kind in kinds if kind in _INNER), None)
        if name is None:
            break
        attribute, wrapper = _INNER[name]
        inner = getattr(model, attribute, None)
        if not isinstance(inner, nn.Module):
            if "." not in name:
                break  # a class of the same name
            raise RequestError(
                f"{wrapper} holds {inner}, which is no module", do="open the .pt that it was made of"
            )
        model = inner
        _warn(
            f"{wrapper} was unwrapped: the result is a plain {type(model).__name__}; "
            "wrap it again if you need to"
        )
    held = [one for one in (*model.parameters(), *model.buffers()) if not is_lazy(one)]
    return copy_module(model) if any(one.is_inference() for one in held) else model


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def warn_of_compiled(model: nn.Module) -> None:
    """Warn with `UnwrapWarning` if a module was compiled in place: what is made of it is not compiled."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        _warn(f"{type(model).__name__} was compiled in place, the result is not; compile it if you need to")


def _warn(text: str) -> None:
    warnings.warn(text, UnwrapWarning, stacklevel=4)


def modules_in_python(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model that run Python, by name: scripts take no hooks, and their numbers are fixed."""
    for name, module in walk_modules(model):
        if not isinstance(module, torch.jit.ScriptModule):
            yield name, module


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def require_python(model: nn.Module) -> None:
    """Refuse what is no module whose Python and whole parameters are at hand.

    A part that is a script and holds no tensor, such as an activation, is run as it is.
    """
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model is {type(model).__name__}, not a torch.nn.Module", do="pass the module itself"
        )
    for name, module in model.named_modules():
        is_script = isinstance(module, torch.jit.ScriptModule)
        if is_script and (module is model or any(True for _ in _tensors_of(module))):
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
    require_whole(model)


def require_whole(model: nn.Module) -> None:
    """Refuse a model whose tensors are spread over a mesh of devices."""
    named = (*model.named_parameters(), *model.named_buffers())
    spread = [name for name, held in named if {kind.__name__ for kind in type(held).__mro__} & _SPREAD]
    if spread:
        raise RequestError(
            f"{spread[0]} is a DTensor: its numbers are spread over the devices of a mesh",
            [f"{len(spread)} of the model's tensors are"],
            "prune first, then distribute the result; or gather each tensor with full_tensor()",
        )
