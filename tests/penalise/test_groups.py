"""Penalties on whole channels: what they reach, and what they refuse."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.coupling.slices import Slice, shares_of
from secateur.errors import RequestError
from secateur.penalise import penalties
from secateur.penalise.slices import GroupSlices, coupled_slices

X = torch.zeros(1, 4)
KINDS = ("group-lasso", "growing-l2")


def mlp(**options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, **options), nn.ReLU(), nn.Linear(6, 2))


def make(name, net, strength=0.1, keep=((0, 1, 2),)):
    kind = penalties[name]
    return kind.of(net, sc.couple(net, X), strength, {"0": keep[0]} if kind.needs_keep else None)


def descend(net, penalty, steps, lr=0.05):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        penalty.step((step + 1) / steps)
        optimizer.step()


def norms(net):
    (channels,) = coupled_slices(net, sc.couple(net, X))
    return channels.squares().sqrt()


def test_without_a_task_group_lasso_takes_whole_channels_to_zero():
    net = mlp()
    descend(net, make("group-lasso", net), 2000, lr=0.01)
    assert norms(net).max() < 0.02
    assert net[2].bias.abs().max() > 0.05  # the output is no channel of the group


def test_growing_l2_takes_the_chosen_channels_and_no_other():
    net = mlp()
    before = norms(net)
    descend(net, make("growing-l2", net, strength=1.0), 400)
    assert torch.equal(norms(net)[:3], before[:3])
    assert norms(net)[3:].max() < 0.01 * before[3:].min()


def test_the_factor_grows_evenly_and_is_held_for_the_last_quarter():
    penalty = make("growing-l2", mlp(), strength=2.0)
    factors = [penalty.strength_at(progress) for progress in (0.0, 0.1875, 0.375, 0.75, 0.9, 1.0)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 2.0, 2.0, 2.0])


def test_a_channel_that_is_zero_has_no_gradient():
    net = mlp()
    with torch.no_grad():
        net[0].weight[2] = 0
        net[0].bias[2] = 0
        net[2].weight[:, 2] = 0
    make("group-lasso", net).step()
    assert net[0].weight.grad.isfinite().all()
    assert not net[0].weight.grad[2].any()
    assert not net[2].weight.grad[:, 2].any()


def test_tied_weights_count_once():
    layer = nn.Linear(4, 4, bias=False)
    net = nn.Sequential(nn.Linear(4, 4, bias=False), layer, layer, nn.Linear(4, 2))
    for channels in coupled_slices(net, sc.couple(net, X)):
        held = [
            (id(parameter), tuple(one.dim for one in share.slices))
            for parameter, shares in channels.shares
            for share in shares
        ]
        assert len(held) == len(set(held))


class Stream(nn.Module):
    """Adds a square weight's output to its input, whose rows and columns then are of one group."""

    def __init__(self):
        super().__init__()
        self.into, self.square = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = self.into(x)
        return self.out(x + torch.relu(self.square(x)))


def test_what_row_and_column_share_counts_once():
    torch.manual_seed(0)
    net = Stream()
    (channels,) = coupled_slices(net, sc.couple(net, X))
    # 4 of into, a row and a column of square with one number in common, 2 of out
    assert channels.weight**2 == pytest.approx(4 + (4 + 4 - 1) + 2)
    with torch.no_grad():
        net.square.weight.copy_(torch.eye(4) * 3)
        net.into.weight.zero_()
        net.out.weight.zero_()
    assert channels.squares().tolist() == [9.0] * 4
    channels.pull(torch.tensor([1.0, 0.0, 0.0, 2.0]))
    assert torch.equal(net.square.weight.grad, torch.diag(torch.tensor([3.0, 0.0, 0.0, 6.0])))


def test_three_dims_of_one_parameter_share_by_inclusion_and_exclusion():
    weight = nn.Parameter(torch.arange(27.0).reshape(3, 3, 3))
    slices = [Slice(dim, 3, torch.arange(3).view(3, 1)) for dim in range(3)]
    channels = GroupSlices("cube", 3, ((weight, tuple(shares_of(slices))),))
    at = torch.stack(torch.meshgrid(*[torch.arange(3)] * 3, indexing="ij"))
    shares = [weight.detach() * (at == c).any(0) for c in range(3)]
    assert channels.weight**2 == pytest.approx(27 - 8)
    assert channels.squares().tolist() == [float(share.square().sum()) for share in shares]
    channels.pull(torch.tensor([0.0, 1.0, 0.5]))
    assert torch.equal(weight.grad, shares[1] + 0.5 * shares[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_squares_in_half_precision_do_not_overflow(name, dtype):
    net = mlp()
    with torch.no_grad():
        net[0].weight.fill_(300.0)  # its square is beyond float16
    penalty = make(name, net)
    expected = penalty.value()
    net.to(dtype)
    penalty.step()
    assert penalty.value() == pytest.approx(expected, rel=0.01)
    assert net[0].weight.grad.dtype == dtype
    assert (net[0].weight.grad[5] > 0).all()


def test_growing_l2_asks_of_the_named_groups_alone_that_they_can_move():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    net[0].requires_grad_(False)
    groups = sc.couple(net, X)
    penalties["growing-l2"].of(net, groups, 1.0, {"2": [0]}).step()
    assert net[0].weight.grad is None
    assert net[2].weight.grad[1:].any()
    with pytest.raises(RequestError, match=r"0\.weight of group 0 is frozen"):
        penalties["growing-l2"].of(net, groups, 1.0, {"0": [0]})


def test_scales_are_those_of_the_prunable_channels():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2), nn.BatchNorm1d(2))
    for name in KINDS:
        assert [len(scale) for scale in make(name, net).scales] == [6]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_senseless_strengths_are_refused(name, strength):
    with pytest.raises(RequestError, match=rf"strength of {name} is"):
        make(name, mlp(), strength)


@pytest.mark.parametrize("name", KINDS)
def test_frozen_slices_and_models_without_channels_are_refused(name):
    net = mlp()
    net[2].weight.requires_grad_(False)
    with pytest.raises(RequestError, match=r"2\.weight of group 0 is frozen"):
        make(name, net)
    alone = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(RequestError, match="no group of the model can be cut"):
        make(name, alone)


def test_growing_l2_must_know_what_stays():
    net = mlp()
    kind, groups = penalties["growing-l2"], sc.couple(net, X)
    with pytest.raises(RequestError, match="must know which channels will go"):
        kind.of(net, groups, 1.0)
    with pytest.raises(RequestError, match="'9', which is no group that can be cut"):
        kind.of(net, groups, 1.0, {"9": [0]})
    with pytest.raises(RequestError, match="channel 6 of 0 shall stay, it has 6"):
        kind.of(net, groups, 1.0, {"0": [0, 6]})
    with pytest.raises(RequestError, match="all channels stay"):
        kind.of(net, groups, 1.0, {"0": range(6)})


@pytest.mark.parametrize("name", ["group-lasso", "bn-l1"])
def test_others_act_on_all_and_take_no_plan(name):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    with pytest.raises(RequestError, match="leave keep out, or choose growing-l2"):
        penalties[name].of(net, sc.couple(net, X), 1.0, {"0": [0]})


def test_the_recipe_tells_plans_apart():
    net = mlp()
    one, other = (make("growing-l2", net, keep=(keep,)) for keep in ((0, 1, 2), (0, 1, 3)))
    assert one.recipe() != other.recipe()
    assert one.recipe() == make("growing-l2", net).recipe()
