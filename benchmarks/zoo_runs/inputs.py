"""What goes into a model and what comes out, without a word from any pruning library."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split a tensor, a tuple of positional inputs or a dict of keyword inputs into a call."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}


def map_tensors(example_inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of the inputs."""
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, example_inputs)


def output_tensors(output: Any) -> list[Tensor]:
    """List the tensors of a model's output, in a fixed order: tuples, dicts, dataclasses, plain objects."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += output_tensors([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)) and not callable(leaf):
            found += output_tensors(list(vars(leaf).values()))
    return found
