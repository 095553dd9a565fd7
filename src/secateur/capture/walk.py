"""Walks over the modules of a model, as PyTorch's own, which are generators within generators, but faster."""

from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor, nn


def walk_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List what `model.named_modules()` yields: each module once, by the first of its names.

    Args:
        model: Any module; one whose class walks in its own way is asked.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> [name for name, _ in walk_modules(nn.Sequential(layer, nn.Sequential(layer, nn.ReLU())))]
        ['', '0', '1', '1.1']
    """
    found: list[tuple[str, nn.Module]] = []
    return found if _visit(model, "", set(), found) else list(model.named_modules())


def walk_tensors(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Yield all parameters and then all buffers, each by every name that it has.

    As `named_parameters(remove_duplicate=False)` and `named_buffers(remove_duplicate=False)` do.

    Args:
        model: Any module; one whose class walks in its own way is asked.

    Yields:
        "parameter" or "buffer", the name, the tensor.

    Example:
        >>> [(kind, name) for kind, name, _ in walk_tensors(nn.BatchNorm1d(2, affine=False))][:1]
        [('buffer', 'running_mean')]
    """
    found: list[tuple[str, nn.Module]] = []
    kind = type(model)
    is_plain = all(getattr(kind, name) is getattr(nn.Module, name) for name in _WALKS)
    if not is_plain or not _visit(model, "", None, found):
        yield from (("parameter", *pair) for pair in model.named_parameters(remove_duplicate=False))
        yield from (("buffer", *pair) for pair in model.named_buffers(remove_duplicate=False))
        return
    for word, held in (("parameter", "_parameters"), ("buffer", "_buffers")):
        for prefix, module in found:
            for name, tensor in getattr(module, held).items():
                if tensor is not None:
                    yield word, f"{prefix}.{name}" if prefix else name, tensor


_TABLES = (dict, OrderedDict)
"""Scripts hold their modules in something else."""

_WALKS = ("named_parameters", "named_buffers", "_named_members")


def _visit(module: nn.Module, name: str, seen: set[int] | None, found: list[tuple[str, nn.Module]]) -> bool:
    """Add a module and all inside it, those seen before left out; False where a class walks otherwise."""
    if type(module).named_modules is not nn.Module.named_modules or type(module._modules) not in _TABLES:
        return False
    if seen is not None:
        if id(module) in seen:
            return True
        seen.add(id(module))
    found.append((name, module))
    for key, child in module._modules.items():
        if child is not None and not _visit(child, f"{name}.{key}" if name else key, seen, found):
            return False
    return True
