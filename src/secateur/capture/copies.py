"""Copies of modules, also of those that hold tensors which were computed."""

import copy
from collections import OrderedDict
from types import FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.capture.closures import twins_of
from secateur.capture.generated import separate_classes
from secateur.errors import CaptureError

Module = TypeVar("Module", bound=nn.Module)

_REGISTERED = ("_parameters", "_modules")


def copy_module(model: Module, memo: dict[int, Any] | None = None) -> Module:
    """Copy a module and all it holds.

    `copy.deepcopy` refuses tensors that were computed from others with gradients: the weights that
    `torch.nn.utils.prune` and `weight_norm` leave on a module before each run, or activations that a module
    keeps, wherever it keeps them. They are copied without their history. Functions that the model holds and
    that reach back into it, such as a `forward` that was replaced by a closure, are bound to the copy.
    Parametrized modules get classes of their own.

    Args:
        model: Any module; not changed.
        memo: Copies that are made already, by the identity of what they are copies of.

    Raises:
        CaptureError: Something that the module holds cannot be copied; named, with the cause chained.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> layer.seen = layer(torch.ones(1, 2))
        >>> torch.equal(copy_module(layer).seen, layer.seen)
        True
    """
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be trained
        return _copy(model, memo or {})


def _copy(model: Module, memo: dict[int, Any]) -> Module:
    try:
        return _bound(model, dict(memo))
    except Exception:  # noqa: BLE001 - foreign objects may raise anything
        try:
            with _WithoutHistory():
                return _bound(model, dict(memo))
        except Exception as error:  # noqa: BLE001 - as above
            failure: Exception = error
    raise CaptureError(
        f"the model cannot be copied: {failure}",
        _culprits(model),
        "remove what is named while secateur runs, or give its class a __deepcopy__",
    ) from failure


class _WithoutHistory(TorchFunctionMode):
    """Copies tensors that were computed as if they had not been."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def _bound(model: Any, memo: dict[int, Any]) -> Any:
    """A copy whose functions over the model are functions over the copy."""
    twins = twins_of(model)
    memo.update((id(one.function), one.twin) for one in twins)
    made = _copied(model, memo)
    for one in twins:
        one.fill(memo)
    if twins:
        _rebind(model, memo)
    separate_classes(made)
    return made


def _rebind(model: nn.Module, memo: dict[int, Any]) -> None:
    """Give methods that modules hold the twins of their functions, which `copy.deepcopy` hands back.

    Modules whose class shares them with its copies, or keeps what it copied to itself, are left as they are.
    """
    for module in model.modules():
        made = memo.get(id(module), module)
        if made is module:
            continue
        for name, value in vars(module).items():
            held = vars(made).get(name)
            if isinstance(value, MethodType) and isinstance(held, MethodType) and id(value.__func__) in memo:
                vars(made)[name] = MethodType(memo[id(value.__func__)], held.__self__)


_FINAL = (int, float, complex, bool, str, bytes, type(None), type, torch.dtype, torch.device)
"""What `copy.deepcopy` hands back as it is."""


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` makes of a module, in less time: most of what modules hold is empty."""
    if id(module) in memo:
        return memo[id(module)]
    kind: Any = type(module)
    is_plain = (
        isinstance(module, nn.Module)
        and not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ in (object.__getstate__, nn.Module.__getstate__)
        and _RESTORED.get(kind.__setstate__, "") in vars(module)
    )
    if not is_plain:
        return copy.deepcopy(module, memo)
    memo[id(module)] = made = kind.__new__(kind)
    for name, value in vars(module).items():
        if name == "_compiled_call_impl":
            continue
        if name == "_modules":
            value = type(value)((key, _copied(child, memo)) for key, child in value.items())
        elif name in ("_parameters", "_buffers") and type(value) in _EMPTY:
            table = memo[id(value)] = type(value)()
            table.update((key, _copied_tensor(held, memo)) for key, held in value.items())
            value = table
        elif isinstance(value, (dict, set, list)) and not value and type(value) in _EMPTY:
            value = memo.setdefault(id(value), type(value)())  # handles of hooks refer to it
        elif isinstance(value, FunctionType):
            value = memo.get(id(value), value)
        elif isinstance(value, MethodType):
            value = MethodType(
                memo.get(id(value.__func__), value.__func__), copy.deepcopy(value.__self__, memo)
            )
        elif not _is_final(value):
            value = copy.deepcopy(value, memo)
        made.__dict__[name] = value
    return made


def _is_final(value: Any) -> bool:
    """Whether `copy.deepcopy` hands a value back: a number, a word, or a few of these."""
    return type(value) in _FINAL or (type(value) is tuple and all(type(part) in _FINAL for part in value))


_EMPTY = (dict, OrderedDict, set, list)

_RESTORED: dict[Any, str] = {
    nn.Module.__setstate__: "training",
    nn.modules.conv._ConvNd.__setstate__: "padding_mode",
    nn.MultiheadAttention.__setstate__: "_qkv_same_embed_dim",
    nn.Softmax.__setstate__: "dim",
}
"""How PyTorch's modules are made of what was saved, and what these ways add if an old file lacks it."""


def _copied_tensor(tensor: Any, memo: dict[Any, Any]) -> Any:
    """What `copy.deepcopy` makes of a parameter or a buffer, in less time where its memory is its own."""
    if tensor is None or id(tensor) in memo:
        return memo.get(id(tensor))
    storages = memo.setdefault("torch", {})  # where tensors are copied that share their memory
    if (
        type(tensor) is not Tensor
        or tensor.layout is not torch.strided
        or tensor.device.type not in ("cpu", "cuda")
        or tensor.requires_grad
        or not tensor.is_leaf
        or vars(tensor)
        or tensor.grad is not None
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or not tensor.is_contiguous()
        or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.itemsize
        or tensor.untyped_storage()._cdata in storages
    ):
        return copy.deepcopy(tensor, memo)
    memo[id(tensor)] = made = tensor.clone()
    storages[tensor.untyped_storage()._cdata] = made.untyped_storage()
    return made


def _culprits(model: nn.Module) -> list[str]:
    """The attributes that cannot be copied by themselves."""
    found: list[str] = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _REGISTERED:
                continue
            try:
                copy.deepcopy(value, {id(held): held for held in model.modules()})
            except Exception as error:  # noqa: BLE001 - as above
                found.append(f"{name or 'model'}.{attribute}: {error}"[:200])
    return found
