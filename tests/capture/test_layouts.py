"""No layer is differentiated in a memory format in which some processors write past their memory."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from witness import Witness

import secateur as sc
from secateur.capture.layouts import in_layout, memory_format, unsafe_in_channels_last
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
    witness = Witness()
    plain = Shortcut.forward

    def noting(self, x):
        if torch.is_grad_enabled():
            witness.note(x.is_contiguous() and self.short.weight.is_contiguous())
        return plain(self, x)

    monkeypatch.setattr(Shortcut, "forward", noting)
    model = Shortcut(channels=3).to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    options = {"criterion": criterion, "data": [(images, torch.zeros(8).long())], "check": False}
    sc.prune(model, images, channels={"stem": 0.5}, **options)
    assert witness.seen
    assert all(witness.seen)
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_kernel_of_one_channel_does_not_turn_a_network_to_channels_last():
    """Its strides say channels_last though it is contiguous; PyTorch goes by the strides."""
    kernel = nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last).weight.detach()
    images = torch.randn(8, 1, 8, 8)
    assert not nn.functional.conv2d(images, kernel.contiguous()).is_contiguous(), "what PyTorch does"
    assert nn.functional.conv2d(images, in_layout(kernel, torch.contiguous_format)).is_contiguous()


def test_gradients_of_one_channel_are_taken_in_contiguous_memory(monkeypatch):
    witness = Witness()
    plain = nn.Conv2d.forward

    def noting(self, x):
        found = plain(self, x)
        if torch.is_grad_enabled() and found.shape[1] > 1:
            witness.note(found.is_contiguous())
        return found

    monkeypatch.setattr(nn.Conv2d, "forward", noting)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1, stride=2), nn.Flatten())
    model = nn.Sequential(model, nn.Linear(54, 3)).to(memory_format=torch.channels_last)
    images = torch.randn(8, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    data = [(images, torch.zeros(8).long())]
    sc.prune(model, images, channels={"0.0": 0.5}, criterion="taylor", data=data, check=False)
    assert witness.seen
    assert all(witness.seen)


def test_the_notes_of_a_training_say_which_layers_did_not_run_as_asked(capsys):
    digits = load("digits")
    model = nn.Sequential(nn.Conv2d(1, 4, 1, stride=2), nn.Flatten(), nn.Linear(64, 10))
    note = "differentiated in contiguous memory: in channels_last 1 layer is not safe (0)"
    config = FitConfig(epochs=1, device="cpu")
    assert fit(model, digits, config).notes == (note,)
    assert capsys.readouterr().err.count(note) == 1
    assert fit(model, digits, replace(config, channels_last=False)).notes == ()
    assert fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits, config).notes == ()


def test_the_notes_of_a_cut_say_so_where_the_model_lies_in_channels_last():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 3)
    )
    x = torch.randn(4, 4, 6, 6)
    data = [(x, torch.tensor([0, 1, 2, 0]))]
    for layout, criterion, wanted in (
        (torch.channels_last, "taylor", True),
        (torch.channels_last, "l2", False),
        (torch.contiguous_format, "taylor", False),
    ):
        result = sc.prune(model.to(memory_format=layout), x, ratio=0.5, criterion=criterion, data=data)
        assert ("in channels_last 1 layer is not safe (0)" in str(result)) == wanted
