"""The hook on a masked tensor: what it notes of the gradients of masked entries."""

import copy

import pytest
import torch
from torch import nn

from secateur.mask.hook import attach


def gradients_of_dense(layer, batches):
    """The gradient of the whole weight, summed over backward passes, as autograd has it without a mask."""
    weight = layer.weight.detach().clone().requires_grad_()
    for x in batches:
        nn.functional.linear(x, weight, layer.bias).square().sum().backward()
    return weight.grad


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_the_dense_gradient_is_the_sum_over_backward_passes(passes):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    hook = attach(layer, "weight", torch.eye(3, 4))
    hook.listens = True
    batches = torch.randn(passes, 5, 4)
    for x in batches:
        layer(x).square().sum().backward()
    expected = gradients_of_dense(layer, batches)
    torch.testing.assert_close(hook.dense_gradient, expected)
    torch.testing.assert_close(layer.weight_orig.grad, expected * torch.eye(3, 4))


def test_a_layer_that_is_called_twice_in_one_pass_notes_both_calls():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    hook = attach(layer, "weight", torch.eye(4))
    hook.listens = True
    x = torch.randn(5, 4)
    layer(layer(x).relu()).square().sum().backward()
    weight = layer.weight.detach().clone().requires_grad_()
    inner = nn.functional.linear(x, weight, layer.bias).relu()
    nn.functional.linear(inner, weight, layer.bias).square().sum().backward()
    torch.testing.assert_close(hook.dense_gradient, weight.grad)


def test_nothing_is_noted_unasked_and_a_note_is_no_part_of_a_copy():
    layer = nn.Linear(4, 3)
    hook = attach(layer, "weight", torch.eye(3, 4))
    layer(torch.ones(2, 4)).sum().backward()
    assert hook.dense_gradient is None
    hook.listens = True
    layer(torch.ones(2, 4)).sum().backward()
    noted = hook.dense_gradient.clone()
    (twin,) = (one for one in copy.deepcopy(layer)._forward_pre_hooks.values())
    assert (twin.listens, twin.dense_gradient) == (True, None)
    layer.weight_orig.grad.zero_()
    assert torch.equal(hook.dense_gradient, noted)
