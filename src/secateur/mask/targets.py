"""Which tensors get a mask: by name pattern, by module type, by a predicate, or listed one by one."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.errors import RequestError
from secateur.mask.hook import MASK, ORIG, Masked, hook_of

Selector: TypeAlias = (
    str
    | type[nn.Module]
    | Callable[[str, nn.Module], bool]
    | Sequence[str | type[nn.Module] | tuple[nn.Module, str]]
    | None
)
"""Patterns of parameter or module names, module types, a predicate, or (module, name) pairs."""


@dataclass(frozen=True, eq=False)
class Target:
    """A parameter that may get a mask, or has one.

    Attributes:
        name: Qualified name, "conv1.weight", with or without a mask.
        places: Every module that holds the parameter, with its name there; several if it is tied.
    """

    name: str
    places: tuple[tuple[nn.Module, str], ...]

    @property
    def module(self) -> nn.Module:
        """The first module that holds it."""
        return self.places[0][0]

    @property
    def parameter(self) -> str:
        """Its name in that module."""
        return self.places[0][1]

    @property
    def orig(self) -> nn.Parameter:
        """The parameter that is trained."""
        return trained(self.module, self.parameter)

    @property
    def mask(self) -> Tensor:
        """Its mask; ones if it has none yet."""
        if hook_of(self.module, self.parameter) is None:
            return torch.ones_like(self.orig.detach(), memory_format=torch.contiguous_format)
        return Masked(self.name, self.module, self.parameter).mask

    @property
    def value(self) -> Tensor:
        """The parameter with its mask applied."""
        return self.orig.detach() * self.mask


def trained(module: nn.Module, parameter: str) -> nn.Parameter:
    """The parameter behind a name, with or without a mask."""
    masked = hook_of(module, parameter) is not None
    found = module._parameters[parameter + ORIG if masked else parameter]
    assert found is not None, "the caller chose an existing parameter"
    return found


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
    tests = _tests(select, parameters)
    used = [False] * len(tests)
    chosen: dict[int, Target] = {}
    places = _places(model)
    for prefix, module in model.named_modules():
        for parameter in parameters_of(module):
            held = trained(module, parameter)
            name = f"{prefix}.{parameter}" if prefix else parameter
            fits = [test(name, module, parameter) for test in tests]
            used = [before or now for before, now in zip(used, fits, strict=True)]
            if any(fits) and id(held) not in chosen and held.is_floating_point():
                chosen[id(held)] = Target(name, tuple(places[id(held)]))
    _require_all_used(model, select, used)
    if not chosen:
        raise RequestError(
            f"no parameter of {type(model).__name__} is chosen",
            [f"asked for parameters named {', '.join(parameters)}"],
            "name parameters or modules with select=",
        )
    return list(chosen.values())


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for parameter in parameters_of(module):
            found.setdefault(id(trained(module, parameter)), []).append((module, parameter))
    return found


_Test: TypeAlias = Callable[[str, nn.Module, str], bool]


def _tests(select: Selector, parameters: Sequence[str]) -> list[_Test]:
    if select is None:
        return [lambda name, module, parameter: parameter in parameters and _is_usual(module, parameter)]
    items: Iterable[Any] = select if isinstance(select, (list, tuple)) and not _is_pair(select) else [select]
    return [_test(item, parameters) for item in items]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], nn.Module)


def _is_usual(module: nn.Module, parameter: str) -> bool:
    """Weights with two or more dims, and biases beside them; embeddings are looked up, not multiplied."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    if trained(module, parameter).dim() >= 2:
        return True
    return "weight" in parameters_of(module) and trained(module, "weight").dim() >= 2


def _test(item: Any, parameters: Sequence[str]) -> _Test:
    if isinstance(item, str):
        return _pattern_test(item, parameters)
    if _is_pair(item):
        return lambda name, module, parameter: module is item[0] and parameter == item[1]
    if isinstance(item, type) and issubclass(item, nn.Module):
        return lambda name, module, parameter: parameter in parameters and isinstance(module, item)
    if callable(item):
        return lambda name, module, parameter: parameter in parameters and bool(item(name, module))
    raise RequestError(
        f"select holds {item!r}", do="pass name patterns, module types, a predicate or (module, name) pairs"
    )


def _pattern_test(pattern: str, parameters: Sequence[str]) -> _Test:
    """Test by a pattern of parameter names, if its last word is one, or else of module names."""
    last = pattern.rpartition(".")[2]
    is_exact = not set(pattern) & set("*?[")

    def test(name: str, module: nn.Module, parameter: str) -> bool:
        if parameter == last and fnmatch.fnmatchcase(name, pattern):
            return True
        fits = parameter in parameters and fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)
        return fits and (is_exact or _is_usual(module, parameter))

    return test


def _require_all_used(model: nn.Module, select: Selector, used: Sequence[bool]) -> None:
    is_predicate = callable(select) and not isinstance(select, type)
    if select is None or is_predicate or all(used):
        return
    items = list(select) if isinstance(select, (list, tuple)) and not _is_pair(select) else [select]
    unused = next(item for item, was_used in zip(items, used, strict=True) if not was_used)
    shown = unused if isinstance(unused, str) else getattr(unused, "__name__", repr(unused))
    names = [name for name, _ in model.named_parameters()]
    raise RequestError(
        f"'{shown}' in select fits no parameter of {type(model).__name__}",
        [f"it has: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"],
        "write a pattern such as 'layer1.*' or '*.bias', or a type of module that it holds",
    )
