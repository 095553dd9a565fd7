"""The one rule of element-wise operators, held against every operator that PyTorch tags as such."""

import numpy as np
import pytest
import torch
from tagged import tagged_calls

from secateur.capture.operators import is_pointwise
from secateur.graph.axes import leaves, resolve


@pytest.fixture(scope="module")
def calls():
    return list(tagged_calls())


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
