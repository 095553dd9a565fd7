"""What identifies an architecture: the names, shapes and ties of its tensors."""

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer by its qualified name; ties and non-persistent buffers included."""
    return {name: tuple(tensor.shape) for name, tensor in _named_tensors(model)}


def tied_names(model: nn.Module) -> dict[str, str]:
    """Further names of tensors that have several, each with the name that comes first."""
    first: dict[int, str] = {}
    return {
        name: found
        for name, tensor in _named_tensors(model)
        if (found := first.setdefault(id(tensor), name)) != name
    }


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]


def unsaved_names(model: nn.Module) -> tuple[str, ...]:
    """Buffers that the model's state dict leaves out."""
    saved = model.state_dict(keep_vars=True)
    return tuple(name for name, _ in model.named_buffers(remove_duplicate=False) if name not in saved)


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """Hash the names and shapes of an architecture's tensors."""
    text = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
