"""Groups of whole networks: who belongs together, who is protected, and why."""

import nets
import pytest
import torch
import torchvision
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.graph.keep import count

X = torch.zeros(2, 3, 6, 6)


def members(group):
    return {str(member) for member in group.members}


def sizes(groups):
    return {group.name: group.size for group in groups.prunable}


def test_a_residual_connection_couples_its_branches():
    groups = sc.couple(nets.Residual(), X)
    assert sizes(groups) == {"stem": 8, "inner": 6}
    assert members(groups["stem"]) == {
        "stem.weight[0]",
        "norm.weight[0]",
        "norm.bias[0]",
        "norm.running_mean[0]",
        "norm.running_var[0]",
        "inner.weight[1]",
        "outer.weight[0]",
        "outer.bias[0]",
        "head.weight[1]",
    }
    assert groups["stem#2"].reason == "model input"
    assert groups["head"].reason == "model output"


def test_makers_and_readers_are_told_apart():
    groups = sc.couple(nets.Residual(), X)
    readers = {member.tensor for member in groups["stem"].members if member.is_contracted}
    assert readers == {"inner.weight", "head.weight"}
    assert {member.kind for member in groups["stem"].members} == {"parameter", "buffer"}


def test_a_flattened_channel_is_a_product_in_the_reader():
    groups = sc.couple(nets.Residual(), X)
    head = groups.dims("head.weight")[1]
    assert head.size == 32
    assert count(head, {groups["stem"].axis: 3}) == 12


def test_a_grouped_convolution_couples_the_halves():
    groups = sc.couple(nets.Dense(), torch.zeros(1, 3, 8, 8))
    assert {"left.weight[0]", "right.weight[0]", "depthwise.weight[0]", "grouped.weight[1]"} <= members(
        groups["left"]
    )
    assert sizes(groups)["left"] == 5


def test_tied_weights_couple_all_their_dims():
    groups = sc.couple(nets.Tied(), torch.zeros(1, 4))
    assert sizes(groups) == {"first": 8}
    assert {"one.weight[0]", "one.weight[1]", "two.weight[0]", "two.weight[1]"} <= members(groups["first"])


def test_heads_are_cut_and_their_width_is_not_unless_the_code_says_so():
    groups = sc.couple(nets.Attention(), torch.zeros(2, 5, 12))
    assert sizes(groups) == {"qkv#2": 3}
    assert groups["qkv#3"].reason == "cut by whole blocks: its outer axis 3 is free"
    assert "addressed by number: aten.unbind" in groups["qkv"].reason


def test_an_axis_multiplied_by_itself_is_not_its_own_outer_axis():
    assert sizes(sc.couple(nets.Gram(), X)) == {"features": 5}


def test_resnet18_has_a_group_for_each_stage_and_each_block():
    groups = sc.couple(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
    expected = {"conv1": 64, "layer1.0.conv1": 64, "layer1.1.conv1": 64}
    for stage, width in ((2, 128), (3, 256), (4, 512)):
        for block in (0, 1):
            expected[f"layer{stage}.{block}.conv1"] = width
        expected[f"layer{stage}.0.conv2"] = width
    assert sizes(groups) == expected
    assert groups.params({}) == 11_689_512
    assert groups.macs({}) == sc.measure(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64)).macs


class Halves(nn.Module):
    """A gate whose two halves come from one layer, cut by chunk."""

    def __init__(self, chunk):
        super().__init__()
        self.chunk, self.one, self.last = chunk, nn.Linear(4, 12), nn.Linear(6, 2)

    def forward(self, x):
        value, gate = self.chunk(self.one(x))
        return self.last(value * gate.sigmoid())


@pytest.mark.parametrize(
    "chunk",
    [lambda x: x.chunk(2, 1), lambda x: x.split([6, 6], 1), lambda x: (x[:, :6], x[:, 6:])],
)
def test_a_gate_couples_the_halves_of_one_layer(chunk):
    groups = sc.couple(Halves(chunk), torch.zeros(1, 4))
    assert sizes(groups) == {"one": 6}
    assert groups.dims("one.weight")[0].size == 12
    assert count(groups.dims("one.weight")[0], {groups["one"].axis: 2}) == 4
    assert not groups.ties


class Pieces(nn.Module):
    """Two layers joined and cut in equal pieces: they must keep equal counts."""

    def __init__(self, protect=False):
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(3, 8)
        self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 2)
        self.protect = protect

    def forward(self, x):
        left, right = torch.cat([self.one(x), self.two(x)], 1).chunk(2, 1)
        out = self.left(left) + self.right(right)
        return (out, left) if self.protect else out


def test_equal_pieces_are_tied_with_the_reason():
    groups = sc.couple(Pieces(), torch.zeros(1, 3))
    ((names, reason),) = groups.ties
    assert names == ("one", "two")
    assert reason.startswith("equal pieces: aten.chunk (node 3) at coupling/test_groups.py:")
    assert "equal counts: one, two (equal pieces" in str(groups)


def test_a_protected_piece_protects_the_tied_ones():
    groups = sc.couple(Pieces(protect=True), torch.zeros(1, 3))
    assert groups["one"].reason == "model output"
    assert groups["two"].reason.startswith("equal pieces")
    assert not groups.ties


def test_unequal_pieces_are_protected():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.last = nn.Linear(4, 7), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.one(x).chunk(2, 1)[0])

    groups = sc.couple(Uneven(), torch.zeros(1, 4))
    assert not groups.prunable
    assert "unequal pieces" in groups["one"].reason


def test_tensors_that_forward_does_not_use_are_protected():
    model = nets.Residual()
    model.spare = nn.Linear(8, 8)
    groups = sc.couple(model, X)
    assert groups["spare"].reason == "not used in the forward pass"


@pytest.mark.parametrize("pattern", ["inner", "inner.weight", "inn*", "inner*"])
def test_protect_fits_modules_and_parameters(pattern):
    groups = sc.couple(nets.Residual(), X, protect=[pattern])
    assert not groups.prunable
    assert groups["inner"].reason == f"asked for by protect='{pattern}'"


def test_one_pattern_needs_no_list():
    assert sizes(sc.couple(nets.Residual(), X, protect="inner_norm")) == {"stem": 8}


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(RequestError, match="protect pattern 'layer' fits no module and no parameter"):
        sc.couple(nets.Residual(), X, protect=["layer"])


def test_groups_are_found_by_name_and_by_pattern():
    groups = sc.couple(nets.Residual(), X)
    assert groups["stem"].matches("st*")
    assert groups["stem"].matches("norm.weight")
    assert groups["stem"].matches("outer")
    assert not groups["stem"].matches("inner")
    assert len(groups) == len(list(groups)) == 4
    with pytest.raises(RequestError, match="no group is called 'layer'"):
        groups["layer"]


def test_the_operators_that_couple_two_tensors_are_named():
    groups = sc.couple(nets.Residual(), X)
    steps = groups.why("stem.weight", "outer.weight")
    assert steps[0] == "stem"
    assert any(step.startswith("aten.add (node 7) at tests/nets.py:") for step in steps)
    assert groups.why("inner.bias", "head.bias") == []


def test_params_and_macs_follow_the_kept_counts():
    groups = sc.couple(nets.Residual(), X)
    kept = {groups["stem"].axis: 3, groups["inner"].axis: 2}
    assert groups.params(kept) == (3 * 3 * 9 + 2 * 3) + (2 * 3 * 9 + 2 + 2 * 2) + (3 * 2 + 3) + (5 * 12 + 5)
    assert groups.macs(kept) == 2 * (3 * 3 * 9 * 36 + 2 * 3 * 9 * 36 + 3 * 2 * 36 + 5 * 12)


def test_printing_shows_every_group_with_its_status():
    text = str(sc.couple(nets.Normed(), torch.zeros(1, 4)))
    assert "free, renormalised: statistics are taken over it" in text
    assert "protected: model output" in text


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "activation",
    [
        "ReLU",
        "ReLU6",
        "Mish",
        "SiLU",
        "Hardswish",
        "Hardsigmoid",
        "ELU",
        "SELU",
        "CELU",
        "LeakyReLU",
        "Hardtanh",
    ],
)
def test_in_place_activations_pass_channels(activation, inplace):
    model = nn.Sequential(nn.Linear(4, 6), getattr(nn, activation)(inplace=inplace), nn.Linear(6, 2))
    assert sizes(sc.couple(model, torch.zeros(1, 4))) == {"0": 6}


@pytest.mark.parametrize(
    "layer",
    [
        nn.PReLU(),
        nn.PReLU(6),
        nn.GELU(),
        nn.LogSigmoid(),
        nn.Softplus(),
        nn.Softsign(),
        nn.Tanhshrink(),
        nn.Threshold(0.1, 2.0),
        nn.RReLU(),
        nn.Dropout(),
        nn.AlphaDropout(),
        nn.BatchNorm1d(6),
        nn.Identity(),
    ],
)
def test_layers_that_pass_channels_do(layer):
    model = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 2))
    assert sizes(sc.couple(model, torch.zeros(3, 4))) == {"0": 6}
    assert sc.prune(model, torch.randn(3, 4), ratio=0.5).verdict.exact


def test_batch_norm_without_running_statistics_renormalises_the_batch():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2))
    assert sc.prune(model, torch.randn(3, 4), ratio=0.5).verdict.exact


@pytest.mark.parametrize(("axes", "free"), [("heads", {3}), ("widths", {4}), ("both", {3, 4})])
def test_where_axes_multiply_the_caller_chooses_which_is_cut(axes, free):
    groups = sc.couple(nets.Attention(), torch.zeros(2, 5, 12), axes=axes)
    assert {group.size for group in groups.prunable} == free


def test_cutting_heads_and_widths_together_is_exact():
    model = nets.randomise(nets.Attention())
    result = sc.prune(model, torch.randn(2, 5, 12), ratio=0.4, axes="both", scope="local")
    assert result.verdict.exact
    assert result.model.qkv.out_features == 3 * 2 * 2
    with pytest.raises(RequestError, match="unknown axes 'all'"):
        sc.couple(model, torch.randn(2, 5, 12), axes="all")
