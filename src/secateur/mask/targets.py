"""Which tensors get a mask: by name pattern, by module type, by a predicate, or listed one by one."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn

from secateur.errors import RequestError
from secateur.mask.hook import MASK, ORIG, Target, trained

Selector: TypeAlias = (
    str
    | type[nn.Module]
    | Callable[[str, nn.Module], bool]
    | Sequence[str | type[nn.Module] | tuple[nn.Module, str]]
    | None
)
"""Patterns of parameter or module names, module types, a predicate, or (module, name) pairs."""


def parameters_of(module: nn.Module) -> list[str]:
    """The names of a module's own parameters, masks not counted: "weight" for "weight_orig"."""
    names = []
    for name, held in module._parameters.items():
        if held is not None:
            bare = name.removesuffix(ORIG)
            names.append(bare if bare != name and bare + MASK in module._buffers else name)
    return names


def choose(
    model: nn.Module, select: Selector = None, parameters: Sequence[str] = ("weight",)
) -> list[Target]:
    """Choose the tensors of a model that get a mask.

    Args:
        model: Any module.
        select: Patterns of module names such as "layer1.*", or of parameters such as "*.bias"; module types;
            a predicate of a parameter's name and its module; or pairs of a module and a parameter's name, as
            `torch.nn.utils.prune.global_unstructured` takes them. None and patterns of modules with a
            wildcard leave out embeddings and norms: what has a weight of one dim.
        parameters: Names of parameters in their modules, "weight" and "bias". Patterns that name a parameter
            itself, and pairs, are not bound by it.

    Returns:
        The parameters in the order of the model, each once.

    Raises:
        RequestError: A pattern or type fits nothing, or nothing is chosen.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
        >>> [target.name for target in choose(net)]
        ['0.weight', '2.weight']
        >>> [target.name for target in choose(net, nn.Linear, ["weight", "bias"])]
        ['2.weight', '2.bias']
        >>> [target.name for target in choose(net, "*.bias")]
        ['0.bias', '1.bias', '2.bias']
    """
    parameters = [parameters] if isinstance(parameters, str) else list(parameters)
    is_list = isinstance(select, (list, tuple)) and not _is_pair(select)
    items: list[Any] = list(select) if is_list else [select]  # type: ignore[arg-type]
    used: set[int] = set()
    names: dict[int, str] = {}
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for parameter in parameters_of(module):
            held = trained(module, parameter)
            name = f"{prefix}.{parameter}" if prefix else parameter
            places.setdefault(id(held), []).append((module, parameter))
            fitting = {
                at for at, item in enumerate(items) if _fits(item, name, module, parameter, parameters)
            }
            used |= fitting
            if fitting and held.is_floating_point():
                names.setdefault(id(held), name)
    for at, item in enumerate(items):
        if at not in used and (is_list or isinstance(item, (str, type))):
            raise _unused(item, model)
    if not names:
        raise RequestError(
            f"no parameter of {type(model).__name__} is chosen",
            [f"asked for parameters named {', '.join(parameters)}"],
            "name parameters or modules with select=",
        )
    return [Target(name, tuple(places[held])) for held, name in names.items()]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], nn.Module)


def _is_usual(module: nn.Module, parameter: str) -> bool:
    """Weights with two or more dims, and biases beside them; embeddings are looked up, not multiplied."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    if trained(module, parameter).dim() >= 2:
        return True
    return "weight" in parameters_of(module) and trained(module, "weight").dim() >= 2


def _fits(item: Any, name: str, module: nn.Module, parameter: str, parameters: Sequence[str]) -> bool:
    """Whether one of the things that were selected is a parameter, or its module."""
    if _is_pair(item):
        return module is item[0] and parameter == item[1]
    if isinstance(item, str) and item.rpartition(".")[2] == parameter and fnmatch.fnmatchcase(name, item):
        return True
    if parameter not in parameters:
        return False
    if item is None:
        return _is_usual(module, parameter)
    if isinstance(item, str):
        is_exact = not set(item) & set("*?[")
        fits = fnmatch.fnmatchcase(name.rpartition(".")[0], item)
        return fits and (is_exact or _is_usual(module, parameter))
    if isinstance(item, type) and issubclass(item, nn.Module):
        return isinstance(module, item)
    if callable(item):
        return bool(item(name, module))
    raise RequestError(
        f"select holds {item!r}", do="pass name patterns, module types, a predicate or (module, name) pairs"
    )


def _unused(item: Any, model: nn.Module) -> RequestError:
    shown = item if isinstance(item, str) else getattr(item, "__name__", repr(item))
    names = [name for name, _ in model.named_parameters()]
    return RequestError(
        f"'{shown}' in select fits no parameter of {type(model).__name__}",
        [f"it has: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"],
        "write a pattern such as 'layer1.*' or '*.bias', or a type of module that it holds",
    )
