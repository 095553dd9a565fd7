"""Recurrent state: what a model returns only to be given back at its next call.

Every tensor that `forward` returns is an output, and outputs keep their shape. A key-value cache is
returned, too, but holds channels of the inside that no one outside relies on; kept whole, it would keep
every head of every language model. It is told from an output by what the model does with it: it stands
under the name of an optional parameter of `forward`, it is a container (a tensor by itself is an output),
and a second call that is given it reads it. What is not found so, `state=` names.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.capture.inputs import fields_of, output_tensors


def find_state(
    model: nn.Module, output: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> frozenset[str]:
    """Find the names of what a model takes back in.

    Args:
        model: It is run once more if it returned something that may be state; its caches may change.
        output: What it returned for these arguments.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Example:
        >>> import torch
        >>> class Memory(nn.Module):
        ...     def forward(self, x, past=None, mask=None):
        ...         seen = x if past is None else x + past[0]
        ...         return {"y": 2 * seen, "past": (seen,), "mask": x > 0 if mask is None else mask}
        >>> model, x = Memory(), torch.ones(3)
        >>> sorted(find_state(model, model(x), (x,), {}))
        ['past']
    """
    optional = {
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.default is None
    }
    held = {
        name: item
        for name, item in fields_of(output).items()
        if name in optional and not isinstance(item, Tensor) and output_tensors(item)
    }
    return frozenset(name for name, item in held.items() if _is_read(model, name, item, args, kwargs))


def _is_read(
    model: nn.Module, name: str, item: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a call that is given this reads one of its tensors."""
    try:
        with _Reader(output_tensors(item)):
            model(*args, **{**kwargs, name: item})
    except _ReadError:
        return True
    except Exception:  # noqa: BLE001 - a foreign model may raise anything; then it does not take it back
        return False
    return False


class _ReadError(BaseException):
    """Ends a call at the first operator that tells all; no `Exception`, so that no model handles it."""


class _Reader(TorchDispatchMode):
    """Raises at the first operator that is given one of some tensors."""

    supports_higher_order_operators = True

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if any(id(tensor) in given for tensor in self.tensors):
            raise _ReadError
        return func(*args, **(kwargs or {}))
