"""Calls of the operators that PyTorch tags as element-wise and that have no rule of their own."""

import torch
from replay import Recording

from secateur.capture.operators import is_pointwise
from secateur.coupling.rule import rules

OPERANDS = ("T(2, 3)", "T(3)", "T(2, 1)")


def _overloads():
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        name, _, overload = full.removeprefix("aten::").partition(".")
        if full.startswith("aten::") and not name.startswith("_") and "backward" not in name:
            yield name, overload or "default", getattr(getattr(torch.ops.aten, name), overload or "default")


def _samples(name, overload, func):
    """Calls with one to three tensors, broadcast; as numbers, as integers or as truth values."""
    arguments = func._schema.arguments
    tensors = [argument for argument in arguments if not argument.has_default_value()]
    if any(argument.is_out for argument in arguments) or not 1 <= len(tensors) <= len(OPERANDS):
        return
    if any(str(argument.type) != "Tensor" for argument in tensors):
        return
    for cast in (".clone()", ".mul(4).long().abs()", ".gt(0)"):
        yield (
            f"torch.ops.aten.{name}.{overload}({', '.join(op + cast for op in OPERANDS[: len(tensors)])})",
            len(tensors),
        )


def tagged_calls():
    """The name, a sample, its number of tensors and its record, of each operator that can be called so."""
    for name, overload, func in _overloads():
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            or not is_pointwise(func)
            or f"aten.{name}" in rules
        ):
            continue
        for sample, tensors in _samples(name, overload, func):
            try:
                yield f"{name}.{overload}", sample, tensors, Recording.of(sample)
            except (RuntimeError, NotImplementedError, TypeError):
                continue
            break
