import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError, RequestError
from secateur.scratch import from_scratch, require_fresh, scratch_epochs
from secateur.zoo import models

X = torch.zeros(1, 1, 8, 8)


def vgg(seed, **options):
    torch.manual_seed(seed)
    return models["vgg11"](width=0.5, in_channels=1, image_size=8, gamma=0.5, **options)


def test_it_has_the_pruned_shapes_and_knows_nothing_of_the_pruned_weights():
    dense = vgg(0)
    pruned = sc.prune(dense, X, ratio=0.6)
    one, other = (from_scratch(vgg(seed), pruned.plan, X) for seed in (1, 2))
    for name, tensor in one.state_dict().items():
        assert tensor.shape == pruned.model.state_dict()[name].shape
    assert not torch.equal(one.feature[0].weight, other.feature[0].weight)
    assert not torch.equal(one.feature[0].weight, pruned.model.feature[0].weight)
    assert (one.feature[1].weight == 0.5).all()
    assert (one.feature[1].running_mean == 0).all()


def test_sums_spread_as_in_the_uncut_network():
    """He's initialiser: the standard deviation is sqrt(2 / fan_in), of the fan-in that is left."""
    net = nn.Sequential(
        nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10)
    )
    for layer in (net[0], net[2], net[5]):
        nn.init.kaiming_normal_(layer.weight)
    plan = sc.prune(net, X, keep={"0": range(16), "2": range(32)}).plan
    model = from_scratch(net, plan, X)
    spreads = [float(model[at].weight.detach().std()) for at in (0, 2, 5)]
    fans = [9, 16 * 9, 32 * 16]
    assert spreads == pytest.approx([(2 / fan) ** 0.5 for fan in fans], rel=0.15)


def test_embeddings_are_not_summed_over_and_keep_their_spread():
    net = nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 3))
    plan = sc.prune(net, torch.zeros(1, 4, dtype=torch.long), keep={"0#2": range(16)}).plan
    model = from_scratch(net, plan, torch.zeros(1, 4, dtype=torch.long))
    assert torch.equal(model[0].weight, net[0].weight[:, :16])
    assert torch.allclose(model[1].weight, 2 * net[1].weight[:, :16])


def test_several_cuts_in_a_row_count_together():
    dense = vgg(0)
    first = sc.prune(dense, X, ratio=0.3)
    second = sc.prune(first.model, X, ratio=0.3)
    model = from_scratch(vgg(1), second.plan.after(first.plan), X)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in second.model.state_dict().items()}


def test_another_architecture_is_refused():
    plan = sc.prune(vgg(0), X, ratio=0.5).plan
    with pytest.raises(CheckpointError, match="first difference"):
        from_scratch(vgg(0, num_classes=7), plan, X)


def test_compute_is_never_more_than_the_dense_networks():
    for dense, macs in ((1000, 300), (1000, 999), (10, 20)):
        epochs = scratch_epochs("compute", 30, dense, macs)
        assert epochs >= 30
        assert epochs == 30 or epochs * macs <= 30 * dense < (epochs + 1) * macs
    assert scratch_epochs("epochs", 30, 1000, 300) == 30
    with pytest.raises(RequestError, match="unknown baseline 'e'\n  known: epochs, compute"):
        scratch_epochs("e", 30, 1000, 300)


def test_weights_that_were_loaded_in_part_are_found():
    one, other = vgg(1), vgg(2)
    require_fresh(one, other)
    other.feature[4].weight.data.copy_(one.feature[4].weight.data)
    with pytest.raises(RequestError, match=r"feature\.4\.weight is the same after another seed"):
        require_fresh(one, other)
