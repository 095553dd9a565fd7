"""Integers that no record reads: what a later call needs, an export, a new classifier, a fold of branches.

They follow the cut where the evidence leaves no doubt: the module's constructor made them and its children of
one number; or they are named as widths are, and every width of that number in the module becomes the same
one. What may be stale beside them is listed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from secateur.cut.constructors import Solver, Values, is_of_torch
from secateur.cut.conventions import OF_CLASSIFIER, OF_CONFIG, OF_LISTS, OF_MODULES, OF_TORCH
from secateur.graph.node import Graph, Node
from secateur.graph.origin import Field


def follow_unread(model: nn.Module, known: Values) -> dict[Field, int]:
    """Find the new numbers of integers that no record reads.

    Args:
        model: The uncut model.
        known: The attributes that change, and those of `torch.nn` modules that are sizes, after the cut.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.width, self.conv = width, nn.Conv2d(3, 2 * width, 1)
        >>> found = follow_unread(Block(4), {"conv": {"out_channels": 6}})
        >>> [(str(held), number) for held, number in found.items()]
        [('width', 3)]
    """
    solver = Solver(model, known)
    widths = _widths(model, known)
    found: dict[Field, int] = {}
    for held, module, before in _integers(model):
        name, (attribute, *inner) = held.module, held.path
        if _word(held) in known.get(name, {}):
            continue
        now = None if inner else solver.attribute(name, str(attribute))
        if now is None and not inner and attribute in OF_CLASSIFIER:
            now = _of_classifier(model, module, before, known)
        same = widths.get((name, before), {})
        if now is None and len(same) == 1 and (inner[-1] in OF_CONFIG if inner else attribute in OF_MODULES):
            (now,) = same
        if now is not None and 0 < now != before:
            found[held] = now
    return found


def follow_lists(model: nn.Module, known: Values, before: Graph, after: Graph) -> dict[Field, int]:
    """Find the new numbers in lists that say how wide the outputs of modules are, from two records.

    Args:
        model: The uncut model.
        known: As for `follow_unread`.
        before: The record of the uncut model.
        after: The record of the cut model, which takes the same path; calls that only lay memory out anew may
            be missing.

    Returns:
        The new numbers: what became of the dim of that size, or, of a module that runs no operator, of all
        widths of that size.
    """
    names, widths = dict(model.named_modules()), _widths(model, known)
    made, now_made = (
        {module: _made(node, graph) for node in graph.nodes for module in node.modules}
        for graph in (before, after)
    )
    found: dict[Field, int] = {}
    for held, module, width in _listed(model):
        flat = module[len(held.module) :].lstrip(".").replace(".", "_")  # as networks of features name them
        named = next((one for one in (module, f"{held.module}.{flat}".lstrip(".")) if one in made), None)
        if _word(held) in known.get(held.module, {}):
            continue
        if named is None:
            now = set(widths.get((held.module, width), {})) if module in names else set()
        else:
            sizes = made[named], now_made.get(named, ())
            is_alike = len(sizes[0]) == len(sizes[1])
            now = {new for old, new in zip(*sizes, strict=True) if old == width != new} if is_alike else set()
        if len(now) == 1 and now != {width}:
            found[held] = now.pop()
    return found


def _made(node: Node, graph: Graph) -> tuple[int, ...]:
    """The shape of what a node of a record makes."""
    ref = node.outputs[0]
    return () if ref is None else graph.values[ref.value].shape


def stale_integers(model: nn.Module, known: Values) -> list[str]:
    """The integers of modules that equal a width which a cut changed inside of them, and stay.

    Args:
        model: The uncut model.
        known: All attributes that the cut sets.
    """
    widths = _widths(model, known)
    found = []
    held_widths = ((held, before) for held, _, before in (*_integers(model), *_listed(model)))
    for held, before in held_widths:
        if _word(held) in known.get(held.module, {}):
            continue
        changed = widths.get((held.module, before), {})
        where = next((at for now, at in changed.items() if now != before), None)
        if where is not None:
            found.append(f"{held} = {before}, as wide as {where} was; {_at_risk(held)} may fail")
    return found


def _at_risk(held: Field) -> str:
    """What may break where a number is stale."""
    if held.path[0] in OF_LISTS:
        return "necks and decoders that are built by it"
    if held.path[0] == "config":
        return "save_pretrained, caches and whatever is built from the config"
    return "code that reads it later"


def _word(held: Field) -> str:
    """A field as a plan names it."""
    return ".".join(map(str, held.path))


def _integers(model: nn.Module) -> Iterator[tuple[Field, nn.Module, int]]:
    """The integers of the modules that are not PyTorch's own, and widths in the configs they are saved by."""
    for name, module in model.named_modules():
        if is_of_torch(module):
            continue
        for attribute, value in vars(module).items():
            if type(value) is int and value > 1:
                yield Field(name, (attribute,)), module, value
            elif attribute == "config" and hasattr(module, "save_pretrained") and hasattr(value, "__dict__"):
                for key, number in vars(value).items():
                    if type(number) is int and number > 1 and key in OF_CONFIG | OF_MODULES:
                        yield Field(name, (attribute, key)), module, number


def _listed(model: nn.Module) -> Iterator[tuple[Field, str, int]]:
    """The numbers in lists of the widths of modules, with the module that each is told of."""
    for name, part in model.named_modules():
        for attribute in OF_LISTS.keys() & vars(part).keys():
            held, (of, width), path = vars(part)[attribute], OF_LISTS[attribute], [attribute]
            if not isinstance(held, (list, tuple)):
                held, path = getattr(held, "info", None), [attribute, "info"]
            for at, entry in enumerate(held if isinstance(held, (list, tuple)) else ()):
                if isinstance(entry, dict) and type(entry.get(width)) is int and of in entry:
                    yield Field(name, (*path, at, width)), f"{name}.{entry[of]}".lstrip("."), entry[width]


Widths = Mapping[tuple[str, int], Mapping[int, str]]
"""By module and width before: what such widths inside of it become, each with the first module of PyTorch."""


def _widths(model: nn.Module, known: Values) -> Widths:
    found: dict[tuple[str, int], dict[int, str]] = {}
    for name, module in model.named_modules():
        held = vars(module) if is_of_torch(module) else {}
        for attribute in OF_TORCH & held.keys():
            before = held[attribute]
            if type(before) is int:
                now = known.get(name, {}).get(attribute, before)
                for outer in _outer(name):
                    found.setdefault((outer, before), {}).setdefault(now, name)
    return found


def _outer(name: str) -> Iterator[str]:
    """The names of the modules that hold one."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _of_classifier(model: nn.Module, module: nn.Module, before: int, known: Values) -> int | None:
    """What the classifier of a module reads, if it read that many before."""
    getter: Any = getattr(module, "get_classifier", None)
    classifier = getter() if callable(getter) else None
    if not isinstance(classifier, nn.Module):
        return None
    name = next((name for name, one in model.named_modules() if one is classifier), None)
    for attribute in ("in_features", "in_channels"):
        if name is not None and getattr(classifier, attribute, None) == before:
            return known.get(name, {}).get(attribute)
    return None
