"""Laws that every criterion keeps which looks at data."""

import copy

import pytest
import torch
from torch import nn

from secateur.capture import capture
from secateur.capture.batches import Samples
from secateur.coupling import couple_graph
from secateur.score import choose, score
from secateur.score.criterion import criteria

OF_DATA = [name for name in criteria if criteria[name].needs != "weights"]
EXAMPLE = torch.zeros(1, 2, 6, 6, dtype=torch.float64)


def _net(seed=0):
    """16 channels in all, so that curvature is exact."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()
    for tensor in (net[1].weight, net[1].bias, net[1].running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(net[4].bias, 0.3, 0.9)  # no channel is dead by chance
    return net.eval()


def _data(count=14):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 2, 6, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


def _scores(net, criterion, batches):
    groups = couple_graph(capture(net, EXAMPLE))
    return score(net, groups, criterion, data=Samples(batches, net, EXAMPLE))


@pytest.mark.parametrize("name", OF_DATA)
def test_permuting_channels_permutes_scores(name):
    net = _net()
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in (
            *permuted[0].parameters(),
            *permuted[1].parameters(),
            permuted[1].running_mean,
            permuted[1].running_var,
        ):
            tensor.copy_(tensor[order])
        permuted[4].weight.copy_(permuted[4].weight[:, order])
    torch.testing.assert_close(permuted(_data()[0]), net(_data()[0]))
    plain, moved = (_scores(model, name, [_data()]).by_group for model in (net, permuted))
    torch.testing.assert_close(moved["0"], plain["0"][order])
    assert plain["0"].std() > 0
    for other in set(plain) - {"0"}:
        torch.testing.assert_close(moved[other], plain[other])


@pytest.mark.parametrize("name", OF_DATA)
@pytest.mark.parametrize("sizes", [[7, 7], [2] * 7, [6, 7, 1]])
def test_the_number_of_batches_does_not_change_the_scale(name, sizes):
    net = _net()
    inputs, labels = _data()
    batches = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
    whole = _scores(net, choose(name, normalise="none"), [(inputs, labels)]).by_group
    parts = _scores(net, choose(name, normalise="none"), batches).by_group
    assert set(parts) == ({"0", "4"} if name == "hrank" else {"0", "4", "7"})
    for group, scores in whole.items():
        torch.testing.assert_close(parts[group], scores, rtol=1e-9, atol=1e-12)


# The more samples agree, the less it shrinks what they say; that two are the same it cannot know.
COUNTING = {"after-refit"}


@pytest.mark.parametrize("name", [name for name in OF_DATA if name not in COUNTING])
def test_the_same_data_twice_gives_the_same_scores(name):
    net = _net()
    once, twice = (_scores(net, name, [_data()] * times).by_group for times in (1, 2))
    for group, scores in once.items():
        torch.testing.assert_close(twice[group], scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OF_DATA)
def test_a_channel_that_does_nothing_has_the_lowest_score(name):
    net = _net()
    with torch.no_grad():
        net[4].weight[2] = 0
        net[4].bias[2] = -1  # never passes the ReLU
        net[7].weight[:, 18:27] = 0
    scores = _scores(net, name, [_data()]).by_group["4"]
    assert abs(scores[2]) < 1e-12
    assert (scores[torch.arange(6) != 2] > 1e-6).all()


@pytest.mark.parametrize("name", OF_DATA)
def test_the_model_stays_as_it_was(name):
    net = _net().train()
    net[1].eval()
    net[4].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    with torch.inference_mode():
        _scores(net, name, [_data()])
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [module.training for module in net.modules()] == modes
    assert not net[4].weight.requires_grad
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", OF_DATA)
def test_training_flags_do_not_change_scores(name):
    net = _net()
    plain = _scores(net, name, [_data()]).by_group
    trained = _scores(net.train(), name, [_data()]).by_group
    for group, scores in plain.items():
        assert torch.equal(trained[group], scores)
