"""No layer is differentiated in a memory format in which some processors write past their memory."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture.layouts import memory_format, safe_backward, unsafe_in_channels_last
from secateur.domains.classification import load
from secateur.train import FitConfig, fit

SAFE = {
    "seven inputs": nn.Conv2d(7, 4, 1, stride=2),
    "stride 1": nn.Conv2d(2, 4, 1),
    "kernel 3": nn.Conv2d(2, 4, 3, stride=2),
    "one dim": nn.Conv1d(2, 4, 1, stride=2),
}
UNSAFE = {
    "six inputs": nn.Conv2d(6, 4, 1, stride=2),
    "one dim strided": nn.Conv2d(3, 4, 1, stride=(1, 2)),
    "depthwise": nn.Conv2d(16, 16, 1, stride=2, groups=16),
    "transposed": nn.ConvTranspose2d(2, 16, 1, stride=2),
    "parametrized": nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 1, stride=2)),
}


@pytest.mark.parametrize("name", SAFE)
def test_layers_that_are_safe_keep_channels_last(name):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), SAFE[name])
    assert unsafe_in_channels_last(model) == ()
    assert memory_format(model, channels_last=True) == torch.channels_last


@pytest.mark.parametrize("name", UNSAFE)
def test_a_model_with_one_unsafe_layer_is_contiguous(name):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), UNSAFE[name])
    assert unsafe_in_channels_last(model)
    assert memory_format(model, channels_last=True) == torch.contiguous_format


def test_a_weight_that_no_known_module_holds_is_not_trusted():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 2, 1, 1))

    assert unsafe_in_channels_last(Functional()) == ("kernel",)


class Shortcut(nn.Module):
    """A cut residual network in small; notes how its strided 1x1 convolution is run."""

    def __init__(self, width=2, channels=1):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.short = nn.Conv2d(width, 4, 1, stride=2)
        self.head = nn.Linear(4, 10)
        self.seen = []

    def forward(self, x):
        h = self.stem(x).relu()
        if torch.is_grad_enabled():
            self.seen.append(h.is_contiguous(memory_format=torch.channels_last))
        return self.head(self.short(h).mean((2, 3)))


@pytest.mark.parametrize(("width", "expected"), [(2, False), (8, True)])
def test_training_lays_out_a_model_by_its_layers(width, expected):
    model, seen = Shortcut(width), []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, _, __: seen.extend(module.seen) if isinstance(module, Shortcut) else None
    )
    with hook:
        fit(model, load("digits"), FitConfig(epochs=1, batch_size=256, quiet=True))
    assert set(seen) == {expected}


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "hessian"])
def test_gradient_criteria_lay_out_a_model_by_its_layers(criterion, monkeypatch):
    seen = []
    plain = Shortcut.forward

    def noting(self, x):
        if torch.is_grad_enabled():
            seen.append(x.is_contiguous() and self.short.weight.is_contiguous())
        return plain(self, x)

    monkeypatch.setattr(Shortcut, "forward", noting)
    model = Shortcut(channels=3).to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    options = {"criterion": criterion, "data": [(images, torch.zeros(8).long())], "check": False}
    sc.prune(model, images, channels={"stem": 0.5}, **options)
    assert seen
    assert all(seen)
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_where_a_model_must_stay_as_it_lies_other_kernels_run():
    with safe_backward(Shortcut(2)):
        assert not torch.backends.mkldnn.enabled
    with safe_backward(Shortcut(8)):
        assert torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled
