"""Sparse training: what is pulled, how hard, and when."""

import pytest
import torch
from torch import nn

from secateur.domains.darknet import Darknet
from secateur.domains.darknet.sparsity import ScalePenalty, schedules, sparsity_for
from secateur.errors import RequestError


@pytest.fixture
def norms():
    model = nn.Sequential(nn.BatchNorm2d(10), nn.BatchNorm2d(10))
    with torch.no_grad():
        model[0].weight.copy_(torch.linspace(-1, 0.8, 10))
        model[1].weight.copy_(torch.linspace(2, 3, 10))
    return model


def pulled(model, sparsity, progress):
    for parameter in model.parameters():
        parameter.grad = None
    sparsity.pull(model, progress)
    return [model[n].weight.grad for n in range(2)]


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.99])
def test_constant_pulls_by_the_sign_all_the_time(norms, progress):
    first, second = pulled(norms, ScalePenalty(0.2, ("0.weight",)), progress)
    assert torch.equal(first, 0.2 * norms[0].weight.sign())
    assert second is None


def test_global_decay_pulls_a_hundredth_from_half_on(norms):
    sparsity = ScalePenalty(0.2, ("0.weight", "1.weight"), "global-decay")
    before, after = pulled(norms, sparsity, 0.4999)[0], pulled(norms, sparsity, 0.5)[0]
    torch.testing.assert_close(before, 0.2 * norms[0].weight.sign())
    torch.testing.assert_close(after, before / 100)


def test_local_decay_spares_the_largest_across_all_layers(norms):
    sparsity = ScalePenalty(0.2, ("0.weight", "1.weight"), "local-decay")
    first, second = pulled(norms, sparsity, 0.0)
    strengths = torch.cat([first, second]).abs()
    assert (strengths[:17] - 0.2).abs().max() < 1e-7
    torch.testing.assert_close(strengths[17:], torch.full((3,), 0.002))


def test_the_pull_is_added_to_the_gradient_that_is_there(norms):
    norms[0].weight.grad = torch.full((10,), 3.0)
    ScalePenalty(0.2, ("0.weight",)).pull(norms, 0.0)
    torch.testing.assert_close(norms[0].weight.grad, 3 + 0.2 * norms[0].weight.detach().sign())


def test_only_what_the_strategy_prunes_is_pulled():
    model = Darknet("digits")
    normal, slim = (set(sparsity_for(model, name, 0.1).tensors) for name in ("normal", "slim"))
    assert normal < slim
    # Layers 1, 3 (a shortcut) and 24 (before the upsampling) stay whole in normal pruning.
    assert {f"layers.{n}.norm.weight" for n in (1, 3, 24)} <= slim - normal
    scales = ScalePenalty(0.1, tuple(slim)).scales(model)
    assert all(scale.dim() == 1 for scale in scales)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, ("a",)), "the sparsity is -1"),
        ((1.0, ()), "nothing can be pruned"),
        ((1.0, ("a",), "local"), "unknown sparsity schedule 'local'"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        ScalePenalty(*arguments)


def test_a_scale_that_is_not_there_is_refused(norms):
    with pytest.raises(RequestError, match="1 of 2 scales to pull are not in the network"):
        ScalePenalty(1.0, ("0.weight", "7.weight")).pull(norms, 0.0)


def test_schedules_are_the_three_known_ones():
    assert list(schedules) == ["constant", "global-decay", "local-decay"]
