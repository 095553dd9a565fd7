"""Questions about a dispatched operator: its name, whether it is recorded, whether it is element-wise."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._pytree import tree_leaves

_SKIPPED = {"prim.device", "aten.sym_size", "aten.sym_stride", "aten.sym_numel", "aten.sym_storage_offset"}


@cache
def operator_name(func: Any) -> str:
    """The name of an operator without its overload: "aten.conv2d"."""
    if isinstance(func, HigherOrderOperator):
        return f"higher_order.{func.name()}"
    namespace, name = func._schema.name.split("::")
    return f"{namespace}.{name}"


@cache
def is_recorded(func: Any) -> bool:
    """Whether a dispatched call is an operator on tensors rather than a query of sizes.

    PyTorch's factories detach their result only if someone else holds it, so a `detach` says nothing.
    """
    return operator_name(func) not in _SKIPPED and func is not torch.ops.aten.detach.default


@cache
def is_mutable(func: Any) -> bool:
    """Whether an operator writes into one of its arguments; of one that runs Python nobody knows."""
    return isinstance(func, HigherOrderOperator) or bool(func._schema.is_mutable)


def operands(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """All that an operator is given, lists taken apart: an operator of PyTorch nests them one deep."""
    if isinstance(func, HigherOrderOperator):
        return tree_leaves((args, dict(kwargs)))
    found: list[Any] = []
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, (list, tuple)):
            found.extend(arg)
        else:
            found.append(arg)
    return found


@cache
def is_pointwise(func: Any) -> bool:
    """Whether PyTorch tags an operator as element-wise.

    Its tags have holes: `rsub.Scalar` has one and `rsub.Tensor` has none, `mish` has one and `mish_` has
    none. So any overload of the operator counts, and of its out-of-place form. One that makes no tensor
    (`equal`) is tagged too, but has no positions.
    """
    if isinstance(func, HigherOrderOperator):
        return False
    if any(str(result.type) != "Tensor" for result in func._schema.returns):
        return False
    namespace, name = func._schema.name.split("::")
    found = (getattr(getattr(torch.ops, namespace), form, None) for form in (name, name.removesuffix("_")))
    return any(
        torch.Tag.pointwise in getattr(packet, overload).tags
        for packet in found
        if packet is not None
        for overload in packet.overloads()
    )


def schema_arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name every argument of a dispatched call after the operator's schema, defaults filled in."""
    if isinstance(func, HigherOrderOperator):
        yield from ((f"arg{position}", value) for position, value in enumerate(args))
        yield from kwargs.items()
        return
    for position, (name, kwarg_only, has_default, default) in enumerate(_signature(func)):
        if position < len(args) and not kwarg_only:
            yield name, args[position]
        elif name in kwargs:
            yield name, kwargs[name]
        elif has_default:
            yield name, default


@cache
def _signature(func: Any) -> tuple[tuple[str, bool, bool, Any], ...]:
    """Of each argument in a schema its name, whether it is passed by it, and its default.

    PyTorch makes the objects of a schema anew whenever it is looked at.
    """
    return tuple(
        (one.name, one.kwarg_only, one.has_default_value(), one.default_value)
        for one in func._schema.arguments
    )
