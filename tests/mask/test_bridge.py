"""Masked channels become real cuts, exactly those that change nothing."""

import copy

import nets
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import secateur as sc
from secateur import errors
from secateur.mask.dead import find_dead

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def dead_of(model, x=X):
    return find_dead(model, x, sc.couple(model, x))


def conv_net(between):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *between, nn.Conv2d(8, 4, 1))
    return nets.randomise(model)


def zero(*tensors):
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()


def test_zero_weights_and_bias_make_a_channel_dead_through_relu_but_not_through_sigmoid():
    for activation, expected in ((nn.ReLU(), {"0": [2]}), (nn.GELU(), {"0": [2]}), (nn.Sigmoid(), {})):
        model = conv_net([activation])
        zero(model[0].weight[2])
        assert dead_of(model) == {}
        zero(model[0].bias[2])
        assert dead_of(model) == expected


def test_a_batch_norm_that_makes_a_constant_keeps_its_channel():
    model = conv_net([nn.BatchNorm2d(8), nn.ReLU()])
    zero(model[0].weight[2], model[0].bias[2])
    assert dead_of(model) == {}
    zero(model[1].bias[2])
    assert dead_of(model) == {}  # the running mean is left
    zero(model[1].running_mean[2])
    assert dead_of(model) == {"0": [2]}
    model = conv_net([nn.BatchNorm2d(8), nn.ReLU()])
    zero(model[1].weight[5], model[1].bias[5])  # network slimming's zeros
    assert dead_of(model) == {"0": [5]}


def test_channels_that_nobody_reads_are_dead_whatever_they_compute():
    model = conv_net([nn.BatchNorm2d(8), nn.Sigmoid()])
    zero(model[2 + 1].weight[:, 6])
    assert dead_of(model) == {"0": [6]}


def test_a_channel_that_is_added_to_others_lives_although_nobody_reads_it_itself():
    class Sums(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    model = conv_net([Sums()])
    zero(model[2].weight[:, 2])
    assert dead_of(model) == {}
    zero(model[0].weight[2], model[0].bias[2])
    assert dead_of(model) == {"0": [2]}


def test_a_relu_that_is_off_for_these_inputs_is_no_zero():
    model = conv_net([nn.ReLU()])
    with torch.no_grad():
        model[0].bias[3] = -1000.0
    assert dead_of(model) == {}


def test_channels_of_a_residual_stream_must_be_zero_in_every_member():
    model = nets.randomise(nets.Residual())
    zero(model.stem.weight[1], model.norm.weight[1], model.norm.bias[1])
    assert dead_of(model) == {}
    zero(model.outer.weight[1], model.outer.bias[1])
    assert list(dead_of(model).values()) == [[1]]


def test_death_spreads_to_what_only_the_dead_read():
    model = nets.randomise(
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    )
    zero(model[4].weight[:, 1])  # hidden 1 is dead, so what only it reads is, too
    zero(model[2].weight[0, 3:4], model[2].weight[2:, 3])
    assert dead_of(model, torch.randn(2, 3)) == {"0": [3], "2": [1]}


def test_a_wholly_dead_layer_keeps_one_channel():
    model = conv_net([nn.ReLU()])
    zero(model[0].weight, model[0].bias)
    assert len(dead_of(model)["0"]) == 7
    plan = sc.plan_from_masks(model, X)
    assert torch.equal(plan.apply(model)(X), model(X))


def test_layer_norms_keep_their_channels():
    model = nets.randomise(nets.Normed())
    zero(model.first.weight[2], model.first.bias[2], model.norm.weight[2], model.norm.bias[2])
    assert dead_of(model, torch.randn(2, 4)) == {}


NETS = {
    "residual": (nets.Residual, X),
    "dense": (nets.Dense, torch.randn(2, 3, 6, 6)),
    "tied": (nets.Tied, torch.randn(2, 4)),
    "attention": (nets.Attention, torch.randn(2, 4, 12)),
    "gram": (nets.Gram, X),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_what_a_cut_would_remove_is_found_and_removed_exactly(name, seed):
    """Zero all that a plan removes: the channels it names are dead, and the cut changes no output."""
    make, x = NETS[name]
    model = nets.randomise(make(), seed)
    asked = sc.prune(model, x, ratio=0.4, criterion="random", seed=seed).plan
    with torch.no_grad():
        for tensor in asked.tensors:
            held = model.get_buffer(tensor) if "running" in tensor else model.get_parameter(tensor)
            for dim, kept in enumerate(asked.masks(tensor)):
                if "running_var" not in tensor:
                    held.index_fill_(dim, torch.from_numpy((~kept).nonzero()[0]), 0)
    model.eval()
    plan = sc.plan_from_masks(model, x)
    for group, kept in asked.keep.items():
        assert set(plan.keep.get(group, kept)) <= set(kept), group
    cut = plan.apply(model)
    double = copy.deepcopy(model).double(), copy.deepcopy(cut).double()
    assert torch.allclose(double[0](x.double()), double[1](x.double()), atol=1e-12)


def test_masks_of_either_kind_become_cuts_and_masked_cuts_go_on_training():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    theirs = copy.deepcopy(model)
    x = torch.randn(3, 4)
    sc.mask.prune(model, "l2", structure="structured", amount=0.5, select="0")
    sc.mask.prune(model, "l1", amount=0.25, select="2")
    torch_prune.ln_structured(theirs[0], "weight", amount=0.5, n=2, dim=0)
    torch_prune.custom_from_mask(theirs[0], "bias", model[0].bias_mask)
    for masked in (model, theirs):
        plan = sc.plan_from_masks(masked, x)
        cut = plan.apply(masked)
        assert cut[0].out_features == 4 or masked is model
        assert torch.allclose(cut(x), masked(x), atol=1e-6)
        assert torch_prune.is_pruned(cut)
    cut = sc.plan_from_masks(model, x).apply(model)
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    cut(x).sum().backward()
    optimizer.step()
    assert bool((cut[2].weight_orig.grad[cut[2].weight_mask == 0] == 0).all())
    assert torch.equal(copy.deepcopy(cut)(x), cut(x))


def test_baked_masks_give_a_plan_of_the_plain_architecture():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    fresh = copy.deepcopy(model)
    sc.mask.prune(model, "l2", structure="structured", amount=0.5, select="0")
    sc.mask.remove(model)
    plan = sc.plan_from_masks(model, torch.randn(3, 4))
    assert plan.apply(fresh)[0].out_features == 4


def test_a_model_without_dead_channels_is_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    sc.mask.prune(model, "l1", amount=1)
    with pytest.raises(errors.RequestError, match="no channel of the model is dead"):
        sc.plan_from_masks(model, torch.randn(3, 4))
