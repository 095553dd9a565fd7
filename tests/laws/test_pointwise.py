"""The one rule of element-wise operators, held against every operator that PyTorch tags as such."""

import numpy as np
import pytest
import torch
from replay import Recording

from secateur.capture.operators import is_pointwise
from secateur.coupling.rule import rules
from secateur.graph.axes import leaves, resolve

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


def _callable():
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


@pytest.fixture(scope="module")
def calls():
    return list(_callable())


def test_most_tagged_operators_are_called(calls):
    assert len(calls) >= 160


def test_tagged_operators_commute_with_slicing(calls):
    rng = np.random.default_rng(0)
    for name, _, _, recording in calls:
        assert not recording.findings.barriers, name
        assert len(recording.free) == 2, name
        for keep in recording.choices(rng, 1):
            sliced = recording.run(keep, sliced=True)
            whole = recording.sliced_outputs(recording.run(keep, sliced=False), keep)
            for got, expected in zip(sliced, whole, strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)


def test_tagged_operators_couple_the_dims_that_broadcast(calls):
    for name, _, tensors, recording in calls:
        operands = [recording.findings.dims[index] for index in range(tensors)]
        (output,) = (recording.findings.dims[index] for index in recording.graph.outputs[:1])
        rows, columns = (resolve(dim) for dim in operands[0])
        assert [resolve(dim) for dim in output] == [rows, columns], name
        if tensors > 1:
            assert leaves(operands[1][0]) == [columns], name
        if tensors > 2:
            assert leaves(operands[2][0]) == [rows], name


@pytest.mark.parametrize("name", ["mish_", "relu6_", "gelu_", "threshold_", "gt_"])
def test_an_in_place_operator_without_the_tag_is_known_by_its_other_form(name):
    func = getattr(torch.ops.aten, name)
    assert torch.Tag.pointwise not in getattr(func, func.overloads()[0]).tags
    assert is_pointwise(getattr(func, func.overloads()[0]))


@pytest.mark.parametrize("name", ["sum", "cumsum", "linear", "softmax", "sort", "bernoulli", "roll", "equal"])
def test_other_operators_are_not_taken_for_element_wise(name):
    func = getattr(torch.ops.aten, name)
    assert not any(is_pointwise(getattr(func, overload)) for overload in func.overloads())
