"""Laws of every registered penalty, against sums that are written out by hand."""

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.penalise import penalties

X = torch.zeros(1, 2, 4, 4)
KEEP = {"conv": (0, 3), "deep": (1, 2, 4)}


class Tiny(nn.Module):
    """A convolution with its norm, a skip, a concatenation, a flatten: products and sums of axes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Conv2d(4, 4, 1, bias=False)
        self.deep = nn.Conv2d(4, 5, 3, padding=1, bias=False)
        self.head = nn.Linear((4 + 5) * 16, 3)

    def forward(self, images):
        hidden = torch.relu(self.norm(self.conv(images)))
        hidden = hidden + self.mix(hidden)
        return self.head(torch.cat([hidden, torch.relu(self.deep(hidden))], 1).flatten(1))


def channels_by_hand(net):
    """All numbers that go with each channel, by group, read off the forward pass above."""
    head = net.head.weight.view(3, 9, 16)
    shared = [
        [
            *(net.conv.weight[c], net.conv.bias[c], net.norm.weight[c], net.norm.bias[c]),
            # the number in row c and column c of mix counts once
            *(net.mix.weight[c], net.mix.weight[[at for at in range(4) if at != c], c]),
            *(net.deep.weight[:, c], head[:, c]),
        ]
        for c in range(4)
    ]
    own = [[net.deep.weight[c], head[:, 4 + c]] for c in range(5)]
    return {"conv": shared, "deep": own}


def squares(parts):
    return sum(part.square().sum() for part in parts)


def entries(parts):
    return sum(part.numel() for part in parts)


def by_hand(name, net, strength, progress):
    groups = channels_by_hand(net)
    if name == "bn-l1":
        return strength * net.norm.weight.abs().sum()
    if name == "group-lasso":
        return strength * sum(
            (entries(parts) * squares(parts)).sqrt() for channels in groups.values() for parts in channels
        )
    assert name == "growing-l2"
    going = [
        parts
        for group, channels in groups.items()
        for at, parts in enumerate(channels)
        if at not in KEEP[group]
    ]
    return strength * min(1, progress / 0.75) / 2 * sum(map(squares, going))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Tiny()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


def make(name, net, strength=0.3, keep=None):
    kind = penalties[name]
    given = (keep or KEEP) if kind.needs_keep else None
    return kind.of(net, sc.couple(net, X.to(net.head.weight.dtype)), strength, given)


@pytest.mark.parametrize("progress", [0.2, 1.0])
@pytest.mark.parametrize("name", penalties)
def test_value_and_gradient_equal_a_sum_written_out_by_hand(net, name, progress):
    net.double()
    twin = copy.deepcopy(net)
    penalty = make(name, net)
    penalty.step(progress)
    expected = by_hand(name, twin, 0.3, progress)
    expected.backward()
    assert penalty.value(progress) == pytest.approx(expected.item(), rel=1e-12)
    for (label, parameter), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        if other.grad is None:
            assert parameter.grad is None or not parameter.grad.any(), label
        else:
            assert torch.allclose(parameter.grad, other.grad, rtol=1e-12, atol=1e-14), label


@pytest.mark.parametrize("name", penalties)
def test_it_adds_to_the_gradient_of_the_task(net, name):
    twin = copy.deepcopy(net)
    images = torch.randn(3, 2, 4, 4)
    for one in (net, twin):
        one(images).square().sum().backward()
    before = {label: parameter.grad.clone() for label, parameter in net.named_parameters()}
    make(name, net).step()
    twin.zero_grad(set_to_none=True)
    make(name, twin).step()
    for (label, parameter), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        added = torch.zeros_like(parameter) if other.grad is None else other.grad
        assert torch.allclose(parameter.grad, before[label] + added, atol=1e-5), label


def permuted(net, order):
    """The same function with the channels of conv in another order."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in (twin.conv.weight, twin.conv.bias, *twin.norm.state_dict(keep_vars=True).values()):
            if tensor.ndim:
                tensor.copy_(tensor.detach()[order])
        twin.mix.weight.copy_(net.mix.weight[order][:, order])
        twin.deep.weight.copy_(net.deep.weight[:, order])
        head = net.head.weight.view(3, 9, 16)
        twin.head.weight.copy_(torch.cat([head[:, :4][:, order], head[:, 4:]], 1).flatten(1))
    return twin


@pytest.mark.parametrize("name", penalties)
def test_it_is_permutation_equivariant(net, name):
    order = torch.tensor([2, 0, 3, 1])
    twin = permuted(net, order)
    images = torch.randn(2, 2, 4, 4)
    assert torch.allclose(net.eval()(images), twin.eval()(images), atol=1e-5)
    moved = {"conv": [order.tolist().index(at) for at in KEEP["conv"]], "deep": KEEP["deep"]}
    one, other = make(name, net), make(name, twin, keep=moved)
    assert other.value() == pytest.approx(one.value(), rel=1e-6)
    one.step()
    other.step()
    for label in ("conv.weight", "norm.weight"):
        gradient, permuted_gradient = (model.get_parameter(label).grad for model in (net, twin))
        if gradient is None:
            assert permuted_gradient is None
        else:
            assert torch.allclose(permuted_gradient, gradient[order], atol=1e-6)


@pytest.mark.parametrize("name", penalties)
def test_strength_zero_pulls_nothing_and_costs_nothing(net, name):
    penalty = make(name, net, strength=0.0)
    penalty.step()
    assert penalty.value() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize("name", penalties)
def test_copied_together_with_its_model_it_acts_on_the_copy(net, name):
    twin, penalty = copy.deepcopy((net, make(name, net)))
    penalty.step()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert twin.norm.weight.grad.any()
    own = {id(parameter) for parameter in twin.parameters()}
    assert all(id(parameter) in own for parameter in (*penalty.parameters, *penalty.scales))


@pytest.mark.parametrize("name", penalties)
def test_protected_groups_are_left_alone(net, name):
    groups = sc.couple(net, X, protect=["norm"])
    kind = penalties[name]
    if name == "bn-l1":
        with pytest.raises(RequestError, match="nothing to act on"):
            kind.of(net, groups, 1.0)
        return
    kind.of(net, groups, 1.0, {"deep": KEEP["deep"]} if kind.needs_keep else None).step()
    assert all(part.grad is None for part in (*net.conv.parameters(), *net.norm.parameters(), net.mix.weight))
    head = net.head.weight.grad.view(3, 9, 16)
    assert not head[:, :4].any()
    assert head[:, 4:].any()
