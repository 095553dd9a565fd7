"""What goes into a model and what comes out, whatever its form."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError, RequestError


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split example inputs into positional and keyword arguments.

    Args:
        example_inputs: A tensor, a tuple or list of positional inputs, or a dict of keyword inputs.

    Raises:
        RequestError: It is none of these, or holds no tensor.

    Example:
        >>> args, kwargs = as_call({"x": torch.zeros(1)})
        >>> args, list(kwargs)
        ((), ['x'])
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        raise RequestError(
            f"example_inputs is {type(example_inputs).__name__} and holds no tensor",
            do="pass a tensor, a tuple of positional inputs, or a dict of keyword inputs",
        )
    return args, kwargs


def map_inputs(example_inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of the example inputs."""
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, example_inputs)


def cast_inputs(example_inputs: Any, dtype: torch.dtype) -> Any:
    """Cast the floating tensors of the example inputs; integer ones (token ids) stay."""
    return map_inputs(example_inputs, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)


def fields_of(output: Any) -> dict[str, Any]:
    """What a model returned, by name: keys of a dict, fields of a dataclass, positions of a tuple or list.

    Example:
        >>> list(fields_of({"logits": 1, "mask": 2})), list(fields_of((1, 2))), fields_of(3)
        (['logits', 'mask'], ['0', '1'], {})
    """
    if isinstance(output, Mapping):
        return {str(name): item for name, item in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, (tuple, list)):
        return {str(at): item for at, item in enumerate(output)}
    return {}


def output_tensors(output: Any, state: Collection[str] = ()) -> list[Tensor]:
    """List the tensors of a model's output, in a fixed order.

    Dicts, tuples, dataclasses and plain result objects are searched.

    Args:
        output: What the model returned.
        state: Names of fields that are not listed, unless they are all there is.

    Example:
        >>> len(output_tensors({"a": torch.zeros(1), "b": [torch.ones(2)]}))
        2
        >>> len(output_tensors({"a": torch.zeros(1), "past": [torch.ones(2)]}, {"past"}))
        1
    """
    named = fields_of(output) if state else {}
    if any(name in state for name in named) and any(name not in state for name in named):
        output = [item for name, item in named.items() if name not in state]
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found.extend(output_tensors(fields_of(leaf), state))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)) and not callable(leaf):
            found.extend(output_tensors(list(vars(leaf).values())))
    return found


def require_tensors(output: Any, state: Collection[str] = ()) -> list[Tensor]:
    """The tensors of a model's output, at least one.

    Raises:
        CaptureError: The model returned no tensor.
    """
    found = output_tensors(output, state)
    if not found:
        raise CaptureError(
            f"the model returned {type(output).__name__}, which holds no tensor",
            do="return a tensor, or a tuple, dict or dataclass of tensors, from forward",
        )
    return found
