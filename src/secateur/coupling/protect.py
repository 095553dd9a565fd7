"""Protect: what a user asks to keep its shapes, by name or as the very module or parameter."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from secateur.coupling.call import Findings
from secateur.errors import RequestError, prefix_hint
from secateur.graph.axes import leaves, protect
from secateur.graph.node import Graph

Protected: TypeAlias = str | nn.Module | Tensor
"""A pattern of names, a module of the model, or one of its tensors."""


def protected_names(model: nn.Module, wanted: Protected | Iterable[Protected]) -> tuple[str, ...]:
    """What is to be protected, as patterns of names.

    Args:
        model: Whose parts they are.
        wanted: Patterns, modules and tensors, or one of them.

    Raises:
        RequestError: A module or tensor is no part of the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
        >>> protected_names(model, [model[0], model[1].bias, "*.weight"])
        ('0', '1.bias', '*.weight')
    """
    listed = (wanted,) if isinstance(wanted, (str, nn.Module, Tensor)) else tuple(wanted)
    named = _names(model)
    return tuple(name for item in listed for name in _names_of(item, named, type(model).__name__, "protect"))


def by_name(model: nn.Module, given: Mapping[Any, Any], word: str) -> dict[str, Any]:
    """What is asked for by part of a model, by pattern of names.

    Args:
        model: Whose parts they are.
        given: A value for each pattern, module or tensor. That of a module without parameters of its own is
            for all inside it.
        word: The word it stands after, for messages.

    Raises:
        RequestError: A module or tensor is no part of the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 1)))
        >>> by_name(model, {model[0]: 0.5, model[1]: 0.3, "1.0": 0.2}, "channels")
        {'0': 0.5, '1.*': 0.3, '1.0': 0.2}
    """
    named: dict[int, str] = {}
    inside: set[str] = set()
    if any(isinstance(part, (nn.Module, Tensor)) for part in given):
        named = _names(model)
        inside = {
            name for name, held in model.named_modules() if next(held.parameters(recurse=False), None) is None
        }
    found: dict[str, Any] = {}
    for part, value in given.items():
        is_part = isinstance(part, (nn.Module, Tensor))
        for name in _names_of(part, named, type(model).__name__, word) if is_part else [str(part)]:
            found[f"{name}.*" if is_part and name in inside else name] = value
    return found


def _names(model: nn.Module) -> dict[int, str]:
    """The name of each part of a model by its identity."""
    named: dict[int, str] = {}
    for name, part in (*model.named_modules(), *model.named_parameters(), *model.named_buffers()):
        named.setdefault(id(part), name or "*")
    return named


def _names_of(item: Any, named: Mapping[int, str], model: str, word: str) -> list[str]:
    if isinstance(item, str):
        return [item]
    if id(item) in named:
        return [named[id(item)]]
    # a slice of a Sequential is a new one of the same modules
    parts = list(item.children()) if isinstance(item, nn.Module) else []
    if not parts or any(id(part) not in named for part in parts):
        raise RequestError(
            f"{word} holds a {type(item).__name__} that is no part of {model}",
            do="pass names, or modules and parameters of this very model",
        )
    return [named[id(part)] for part in parts if any(True for _ in part.parameters())]


def tensors_fitting(graph: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """The tensors whose names, or the modules around them, fit one of some patterns."""
    return tuple(name for name in graph.tensors if any(_fits(name, pattern) for pattern in patterns))


def protect_by_name(graph: Graph, findings: Findings, patterns: Sequence[str]) -> None:
    """Protect all dims of the tensors whose names, or the modules around them, fit a pattern.

    Raises:
        RequestError: A pattern fits nothing.
    """
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = [name for name in graph.tensors if _fits(name, pattern)]
        if not hits:
            raise RequestError(
                f"protect pattern '{pattern}' fits no module and no parameter",
                [
                    *prefix_hint({*graph.tensors, *_modules_of(graph)}, [pattern], "the model"),
                    f"modules: {', '.join(sorted({name.split('.')[0] for name in graph.tensors}))}, ...",
                ],
                "give a name, or a pattern such as 'layer4.*'",
            )
        for name in hits:
            for dim in findings.dims[graph.tensors[name]]:
                for leaf in leaves(dim):
                    if leaf.reason is None:
                        protect(leaf, f"asked for by protect='{pattern}'")


def _modules_of(graph: Graph) -> set[str]:
    parts = (name.split(".") for name in graph.tensors)
    return {".".join(part[:end]) for part in parts for end in range(1, len(part))}


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits a tensor's name or one of the modules around it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
