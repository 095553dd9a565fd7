"""What goes into a model and what comes out, whatever its form."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
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
        RequestError: It is none of these, or holds no tensor, or none with a number.

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
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if tensors and not any(leaf.numel() for leaf in tensors):
        raise RequestError(
            f"the inputs hold no sample: {', '.join(str(list(leaf.shape)) for leaf in tensors)}",
            ["nothing would be computed, so nothing could be compared"],
            "pass at least one sample",
        )
    if not tensors:
        raise RequestError(
            f"example_inputs is {type(example_inputs).__name__} and holds no tensor",
            do="pass a tensor, a tuple of positional inputs, or a dict of keyword inputs",
        )
    return args, kwargs


def map_inputs(example_inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of the example inputs."""
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, example_inputs)


def cloned(inputs: Any) -> Any:
    """Copies of the inputs, which a model may write into; a tensor given twice stays one."""
    copies: dict[int, Tensor] = {}

    def clone(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in copies:
            copies[id(leaf)] = leaf.detach().clone()
        return copies[id(leaf)]

    return pytree.tree_map(clone, inputs)


def cast_inputs(example_inputs: Any, dtype: torch.dtype) -> Any:
    """Cast the real and complex tensors of the example inputs; integer ones (token ids) stay."""
    return map_inputs(example_inputs, lambda leaf: leaf.to(cast_type(leaf, dtype)))


def cast_type(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The type that a tensor has in a precision, None for its own: complex stays complex, integers stay.

    Example:
        >>> cast_type(torch.zeros(1, dtype=torch.complex64), torch.float64)
        torch.complex128
    """
    if dtype is None:
        return tensor.dtype
    if tensor.is_complex():
        return torch.complex128 if dtype == torch.float64 else torch.complex64
    return dtype if tensor.is_floating_point() else tensor.dtype


def as_real(tensor: Tensor) -> Tensor:
    """Real numbers as they are, complex ones as pairs in a last dim; inside a dispatch, too.

    There operators do not look at the bits of a tensor that is to be conjugated or negated when it is read.
    """
    tensor = tensor.resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def fields_of(output: Any) -> dict[str, Any]:
    """What a model returned, by name: keys of a dict, fields of a dataclass or named tuple, positions.

    Example:
        >>> list(fields_of({"logits": 1, "mask": 2})), list(fields_of((1, 2))), fields_of(3)
        (['logits', 'mask'], ['0', '1'], {})
    """
    if isinstance(output, Mapping):
        return {str(name): item for name, item in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, (tuple, list)):
        names = getattr(type(output), "_fields", None) or map(str, range(len(output)))
        return dict(zip(names, output, strict=True))
    return {}


def paths_of(output: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of an output by its path, those inside other fields too, behind them.

    Example:
        >>> [path for path, _ in paths_of((1, {"logits": 2, "past": (3,)}))]
        ['0', '1', '1.logits', '1.past', '1.past.0']
    """
    for name, item in fields_of(output).items():
        inner = f"{path}.{name}" if path else name
        yield inner, item
        yield from paths_of(item, inner)


def output_tensors(output: Any, state: Collection[str] = ()) -> list[Tensor]:
    """List the tensors of a model's output, in a fixed order.

    Dicts, tuples, dataclasses and plain result objects are searched.

    Args:
        output: What the model returned.
        state: Fields that are not listed, unless they are all there is: by their paths, or by a last name
            that is no position.

    Example:
        >>> len(output_tensors({"a": torch.zeros(1), "b": [torch.ones(2)]}))
        2
        >>> len(output_tensors({"a": torch.zeros(1), "past": [torch.ones(2)]}, {"past"}))
        1
    """
    return list(_tensors(output, frozenset(state), "")) or (list(_tensors(output)) if state else [])


def _tensors(output: Any, state: frozenset[str] = frozenset(), path: str = "") -> Iterator[Tensor]:
    named = fields_of(output)
    for name, item in named.items():
        inner = f"{path}.{name}" if path else name
        if inner not in state and (name not in state or name.isdigit()):
            yield from _tensors(item, state, inner)
    for leaf in () if named else pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif leaf is not output:
            yield from _tensors(leaf, state, path)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)) and not callable(leaf):
            yield from _tensors(list(vars(leaf).values()))


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
