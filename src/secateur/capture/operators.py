"""Questions about a dispatched operator: its name, whether it is recorded, whether it is element-wise."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch._ops import HigherOrderOperator

_SKIPPED = {"prim.device", "aten.sym_size", "aten.sym_stride", "aten.sym_numel", "aten.sym_storage_offset"}


@cache
def operator_name(func: Any) -> str:
    """The name of an operator without its overload: "aten.conv2d"."""
    if isinstance(func, HigherOrderOperator):
        return f"higher_order.{func.name()}"
    namespace, name = func._schema.name.split("::")
    return f"{namespace}.{name}"


def is_recorded(func: Any) -> bool:
    """Whether a dispatched call is an operator on tensors rather than a query of sizes.

    PyTorch's factories detach their result only if someone else holds it, so a `detach` says nothing.
    """
    return operator_name(func) not in _SKIPPED and func is not torch.ops.aten.detach.default


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
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args) and not argument.kwarg_only:
            yield argument.name, args[position]
        elif argument.name in kwargs:
            yield argument.name, kwargs[argument.name]
        elif argument.has_default_value():
            yield argument.name, argument.default_value
