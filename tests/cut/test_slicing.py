"""Cutting tensors and attributes out of a model, against plain indexing."""

import copy
import pickle
import types

import nets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.cut import attributes_of, slice_model
from secateur.cut.slicing import slice_tensor


@st.composite
def tensors_and_masks(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=0, max_size=4))
    masks = [np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size))) for size in shape]
    return torch.arange(int(np.prod(shape))).reshape(shape), masks


@given(tensors_and_masks())
def test_slicing_is_indexing_with_masks(case):
    tensor, masks = case
    sliced = slice_tensor(tensor, masks)
    expected = tensor.numpy()[np.ix_(*masks)] if masks else tensor.numpy()
    assert np.array_equal(sliced.numpy(), expected)
    assert sliced.data_ptr() != tensor.data_ptr() or not sliced.numel()


def test_the_memory_format_stays():
    tensor = torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last)
    masks = [np.arange(6) < 3, np.arange(4) < 2, np.ones(3, bool), np.ones(3, bool)]
    assert slice_tensor(tensor, masks).is_contiguous(memory_format=torch.channels_last)
    assert slice_tensor(tensor.contiguous(), masks).is_contiguous()


def test_a_sliced_model_is_new_and_alike():
    model = nets.Tied()
    model.one.bias.requires_grad_(False)
    model.register_buffer("table", torch.arange(8.0), persistent=False)
    model.first.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    half = np.arange(8) < 4
    result = slice_model(
        model,
        {"one.weight": [half, half], "one.bias": [half], "table": [half]},
        {"one": {"in_features": 4, "out_features": 4}},
    )
    assert result.one.weight is result.two.weight
    assert torch.equal(result.one.weight, model.one.weight[:4, :4])
    assert not result.one.bias.requires_grad
    assert result.one.weight.requires_grad
    assert torch.equal(result.table, torch.arange(4.0))
    assert "table" not in result.state_dict()
    assert len(result.first._forward_hooks) == 1
    assert (result.one.in_features, model.one.in_features) == (4, 8)
    assert result.last.weight is not model.last.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


LAYERS = [
    (nn.Linear(6, 8), ["in_features", "out_features"], lambda x: x.flatten(1)[:, :6]),
    (nn.Conv1d(3, 8, 1), ["in_channels", "out_channels"], lambda x: x.flatten(2)),
    (nn.Conv2d(3, 8, 1), ["in_channels", "out_channels"], None),
    (nn.ConvTranspose2d(3, 8, 1), ["in_channels", "out_channels"], None),
]


@pytest.mark.parametrize(("layer", "names", "change"), LAYERS)
def test_attributes_are_the_sizes_of_dims(layer, names, change):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(change(x) if change else x)

    graph = capture(Wrapped(), torch.zeros(2, 3, 4, 4))
    groups = couple_graph(graph)
    found = attributes_of(graph, groups.findings)["layer"]
    assert {name: found[name].size for name in names} == {name: getattr(layer, name) for name in names}


class Everything(nn.Module):
    """One of each standard layer that holds integers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.group_norm = nn.GroupNorm(2, 6)
        self.shuffle = nn.ChannelShuffle(2)
        self.instance = nn.InstanceNorm2d(6, affine=True)
        self.linear, self.unflatten = nn.Linear(6, 12), nn.Unflatten(1, (3, 4))
        self.layer_norm, self.rms = nn.LayerNorm((3, 4)), nn.RMSNorm(4)
        self.last = nn.Linear(12, 2)

    def forward(self, x):
        x = self.depthwise(self.act(self.norm(self.conv(x))))
        x = self.instance(self.shuffle(self.group_norm(self.up(x))))
        x = self.unflatten(self.linear(x.mean((2, 3))))
        return self.last(self.rms(self.layer_norm(x)).flatten(1))


def test_the_integers_of_standard_layers_follow_the_cut():
    x = torch.randn(2, 3, 8, 8)
    result = sc.prune(nets.randomise(Everything()), x, ratio=0.5, scope="local")
    assert result.verdict.passed
    cut, conv = result.model, result.model.conv.out_channels
    assert conv == 4
    assert cut.norm.num_features == cut.act.num_parameters == cut.depthwise.groups == conv
    assert cut.depthwise.in_channels == cut.depthwise.out_channels == cut.up.in_channels == conv
    up = cut.up.out_channels
    assert up < 6
    assert cut.group_norm.num_channels == cut.instance.num_features == cut.linear.in_features == up
    outer, inner = cut.unflatten.unflattened_size
    assert outer * inner == cut.linear.out_features == cut.last.in_features < 12
    assert tuple(cut.layer_norm.normalized_shape) == (outer, inner)
    assert tuple(cut.rms.normalized_shape) == (inner,)
    for module in cut.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            fresh = type(module)(
                *(
                    (module.in_features, module.out_features)
                    if isinstance(module, nn.Linear)
                    else (module.in_channels, module.out_channels, module.kernel_size)
                ),
                **({} if isinstance(module, nn.Linear) else {"groups": module.groups}),
            )
            assert fresh.weight.shape == module.weight.shape


class Settings:
    """A config, with a class-level default, a name for another field, and a property."""

    width = 8

    def __init__(self, heads):
        self.heads, self.switch, self.eager = heads, "fast", False

    @property
    def head_width(self):
        return self.width // self.heads

    def __getattribute__(self, name):
        return super().__getattribute__({"n_head": "heads"}.get(name, name))


class Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Settings(4)
        self.parts = nn.ModuleList([nn.Identity(), nn.Identity()])
        for part in self.parts:
            part.config = self.config


def sharing(change=lambda model: model):
    cut = slice_model(Configured(), {}, {"parts.0": {"config.heads": 2}})
    return change(cut)


def cut_again(model):
    return slice_model(model, {}, {"parts.0": {"config.heads": 2}, "parts.1": {"config.heads": 1}})


@pytest.mark.parametrize("change", [lambda model: model, copy.deepcopy, cut_again])
def test_a_module_gets_numbers_of_its_own_and_the_switches_of_all(change):
    cut = sharing(change)
    own, shared = cut.parts[0].config, cut.config
    assert (own.heads, own.n_head, own.head_width, shared.heads, shared.head_width) == (2, 2, 4, 4, 2)
    shared.switch, shared.eager = "slow", True
    assert {part.config.switch for part in cut.parts} == {"slow"}
    assert {part.config.eager for part in cut.parts} == {True}
    own.switch = "own"
    assert {part.config.switch for part in (cut, *cut.parts)} == {"own"}
    assert own.__class__ is Settings
    assert isinstance(own, Settings)
    again = pickle.loads(pickle.dumps(own))
    assert (again.heads, again.switch) == (2, "own")


def test_the_switches_of_a_copy_are_not_those_of_the_original():
    cut = sharing()
    copy.deepcopy(cut).config.switch = "slow"
    assert cut.parts[0].config.switch == "fast"


def test_an_object_whose_class_cannot_be_extended_is_copied():
    model = nn.Identity()
    model.choice = types.SimpleNamespace(kind=Closed("a"))
    cut = slice_model(model, {}, {"": {"choice.kind.size": 3}})
    assert (cut.choice.kind.size, model.choice.kind.size) == (3, 1)
    assert type(cut.choice.kind) is Closed


class Closed:
    def __init__(self, name):
        self.name, self.size = name, 1

    def __init_subclass__(cls):
        raise TypeError("no subclass")
