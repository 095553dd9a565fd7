"""Records: what modules hold beside tensors that may count or number layers, in configs and as attributes."""

import enum
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeAlias

from torch import Tensor, nn

Path: TypeAlias = tuple[str, ...]

Facts: TypeAlias = dict[tuple[str, str], Any]
"""By module or tensor and attribute."""

_DEPTH = 4
"""How deep configs lie in each other."""


def is_record(value: Any) -> bool:
    """Whether a value has fields: a config, a namespace, a dictionary."""
    if isinstance(value, dict):
        return True
    is_other = isinstance(value, (nn.Module, Tensor, type, ModuleType, enum.Enum)) or callable(value)
    return hasattr(value, "__dict__") and not is_other


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, None or a list of such values."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def leaves_of(record: Any, depth: int = _DEPTH) -> Iterator[tuple[Path, Any]]:
    """The plain fields of a record and of those inside it.

    Example:
        >>> list(leaves_of({"n_layer": 2, "text": {"types": ["full", "full"]}, "_own": 1}))
        [(('n_layer',), 2), (('text', 'types'), ['full', 'full'])]
    """
    for name, value in (record if isinstance(record, dict) else vars(record)).items():
        if not isinstance(name, str) or name.startswith("_") or "." in name:
            continue
        if is_plain(value):
            yield (name,), value
        elif depth and is_record(value):
            yield from (((name, *path), leaf) for path, leaf in leaves_of(value, depth - 1))


def records_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The records that a module itself holds, by attribute."""
    for name, value in vars(module).items():
        if not name.startswith("_") and is_record(value):
            yield name, value


def facts_of(model: nn.Module) -> Facts:
    """What tells models apart: by module the class and the plain attributes, by tensor the shape.

    Example:
        >>> facts_of(nn.Sequential(nn.ReLU()))
        {('', ''): 'Sequential', ('0', ''): 'ReLU', ('0', 'inplace'): False}
    """
    facts: Facts = {}
    for name, module in model.named_modules():
        facts[name, ""] = type(module).__qualname__
        for attribute, value in vars(module).items():
            if not attribute.startswith("_") and attribute != "training" and is_plain(value):
                facts[name, attribute] = value
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        facts[name, ""] = tuple(tensor.shape)
    return facts
