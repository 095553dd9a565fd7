import copy

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.penalise import penalties
from secateur.penalise.scales import prunable_scales


def make(values, strength=0.01):
    scale = nn.Parameter(torch.tensor(values))
    return scale, penalties["bn-l1"]([scale], strength=strength)


def test_step_adds_the_gradient_of_the_value():
    scale, penalty = make([0.5, -0.25, 2.0], strength=0.3)
    penalty.step()
    reference = scale.detach().clone().requires_grad_()
    (0.3 * reference.abs().sum()).backward()
    assert torch.equal(scale.grad, reference.grad)
    assert penalty.value() == pytest.approx(0.3 * 2.75)


def test_step_adds_to_what_the_task_left_and_leaves_zero_scales_alone():
    scale, penalty = make([1.0, 0.0])
    scale.grad = torch.tensor([5.0, 5.0])
    penalty.step()
    assert torch.allclose(scale.grad, torch.tensor([5.01, 5.0]))


def test_strength_zero_changes_nothing():
    scale, penalty = make([1.0, -1.0], strength=0.0)
    scale.grad = torch.tensor([1.0, 2.0])
    penalty.step()
    assert torch.equal(scale.grad, torch.tensor([1.0, 2.0]))
    assert penalty.value() == 0


def test_the_penalty_is_not_part_of_the_graph():
    scale, penalty = make([1.0])
    penalty.step()
    assert not scale.grad.requires_grad


def test_copied_together_with_its_model_the_penalty_acts_on_the_copy():
    model = nn.BatchNorm2d(3)
    penalty = penalties["bn-l1"]([model.weight], strength=1.0)
    twin, twin_penalty = copy.deepcopy((model, penalty))
    twin_penalty.step()
    assert model.weight.grad is None
    assert torch.equal(twin.weight.grad, torch.ones(3))


def test_without_the_task_gradient_the_scales_arrive_at_zero_and_stay():
    scale, penalty = make([0.5, -0.3], strength=0.1)
    optimizer = torch.optim.SGD([scale], lr=0.01)
    for _ in range(1000):
        optimizer.zero_grad()
        penalty.step()
        optimizer.step()
    assert scale.abs().max() <= 0.01 * 0.1 + 1e-6


def test_senseless_penalties_are_refused():
    for strength in (-1e-4, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="strength of bn-l1 is"):
            make([1.0], strength=strength)
    with pytest.raises(RequestError, match="1 of 1 batch-norm scales are frozen"):
        penalties["bn-l1"]([nn.Parameter(torch.ones(1), requires_grad=False)], strength=0.1)
    with pytest.raises(RequestError, match="did you mean 'bn-l1'"):
        penalties["bnl1"]


@pytest.mark.parametrize(
    ("norm", "count"),
    [
        (nn.BatchNorm2d(4), 1),
        (nn.InstanceNorm2d(4, affine=True), 1),
        (nn.GroupNorm(2, 4), 0),
    ],
)
def test_scales_are_those_of_norms_that_take_each_channel_by_itself(norm, count):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 2, 3))
    scales = prunable_scales(net, sc.couple(net, torch.zeros(1, 1, 8, 8)))
    assert [scale is norm.weight for scale in scales] == [True] * count
