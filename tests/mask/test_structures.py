"""Laws of structures and scopes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur import mask
from secateur.mask.structure import read_structure, structures

WORDS = ["unstructured", "structured", "row", "1x4", "16x16", "3x2"]
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.tuples(*[st.integers(1, 4)] * 4)


@pytest.mark.parametrize("word", WORDS)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_spreading_undoes_grouping(word, shape, seed):
    """A mask made of whole units is found again, and every unit's score is the mean of its entries."""
    torch.manual_seed(seed)
    structure = read_structure(word)
    scores = torch.rand(shape)
    units = structure.units("w", scores, torch.ones(shape))
    keep = torch.rand(len(units.scores)) > 0.5
    spread = structure.spread(keep, shape)
    assert tuple(spread.shape) == shape
    again = structure.units("w", scores, spread.float())
    assert torch.equal(again.alive, keep)
    if word != "row" and units.entries * len(units.scores) == scores.numel():
        assert torch.isclose(units.scores.double().mean(), scores.double().mean())


@given(rows=st.integers(1, 8), groups=st.integers(1, 5), seed=st.integers(0, 99))
def test_n_of_m_leaves_the_largest_n_of_each_group(rows, groups, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(4 * groups, rows)
    mask.prune(layer, "l1", structure="2:4")
    parts = layer.weight_mask.view(rows, groups, 4)
    assert bool((parts.sum(2) == 2).all())
    values = layer.weight_orig.abs().view(rows, groups, 4)
    assert bool((values[parts == 1].view(-1, 2).amin(1) >= values[parts == 0].view(-1, 2).amax(1)).all())


def test_n_of_m_groups_the_inputs_of_convolutions_and_leaves_others_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    result = mask.prune(model, "l1", structure="4:8")
    assert list(result.left_alone) == ["0.weight"]
    assert bool((model[1].weight_mask.sum(1) == 4).all())


def test_rows_lose_the_same_share_whatever_their_scale():
    layer = nn.Linear(10, 5)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[1.0], [10.0], [100.0], [0.1], [0.01]]))
    mask.prune(layer, "l1", structure="row", amount=0.3)
    assert layer.weight_mask.sum(1).tolist() == [7.0] * 5
    mask.prune(layer, "l1", structure="row", sparsity=0.6)
    assert layer.weight_mask.sum(1).tolist() == [4.0] * 5


def test_blocks_go_as_a_whole():
    layer = nn.Linear(32, 32)
    mask.prune(layer, "l1", structure="16x16", amount=1)
    tiles = layer.weight_mask.view(2, 16, 2, 16).sum((1, 3))
    assert sorted(tiles.flatten().tolist()) == [0.0, 256.0, 256.0, 256.0]
    scores = layer.weight_orig.abs().view(2, 16, 2, 16).mean((1, 3))
    assert bool(scores[tiles == 0] == scores.min())


def big_and_small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


@pytest.mark.parametrize("scope", ["local", "uniform", "global", "erk", "lamp"])
@pytest.mark.parametrize("word", ["unstructured", "structured", "1x4"])
def test_every_scope_reaches_the_sparsity_in_one_call_and_in_two(scope, word):
    for steps in ([0.75], [0.4, 0.75]):
        model = big_and_small()
        for sparsity in steps:
            result = mask.prune(model, "l1", scope=scope, structure=word, sparsity=sparsity)
        assert abs(result.sparsity - 0.75) < 0.02, (scope, word, steps)


def test_erk_keeps_small_layers_denser():
    model = big_and_small()
    result = mask.prune(model, "random", scope="erk", sparsity=0.9)
    assert result["2.weight"] < 0.9 < result["0.weight"]
    expected = (110 / 1000) / (200 / 10000)
    assert abs((1 - result["2.weight"]) / (1 - result["0.weight"]) - expected) < 0.05


def test_lamp_equals_its_definition():
    model = big_and_small()
    weights = [model[at].weight.detach().flatten() for at in (0, 2)]
    scores = torch.cat([torch.stack([u**2 / (w[w.abs() >= u.abs()] ** 2).sum() for u in w]) for w in weights])
    expected = torch.ones(len(scores))
    expected[scores.topk(8000, largest=False).indices] = 0
    mask.prune(model, "l1", scope="lamp", amount=8000)
    got = torch.cat([model[at].weight_mask.flatten() for at in (0, 2)])
    assert int((got != expected).sum()) <= 2  # ties of rounding


def test_global_channels_compare_by_their_mean_and_no_layer_is_cut_through():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 64, 1))
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
    mask.prune(model, "l2", structure="structured", scope="global", amount=10)
    gone = [int((module.weight_mask.flatten(1) == 0).all(1).sum()) for module in model]
    assert gone == [3, 7]
    assert int((model[0].bias_mask == 0).sum()) == 3


def test_amounts_by_pattern_leave_the_rest_alone():
    model = big_and_small()
    result = mask.prune(model, "l1", amount={"*": 0.1, "2": 0.5})
    assert (result["0.weight"], result["2.weight"]) == (0.1, 0.5)
    model = big_and_small()
    assert mask.prune(model, "l1", amount={"2*": 0.5})["0.weight"] == 0.0


def test_selection_by_type_predicate_pattern_and_pair():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 8))
    for select, names in (
        (None, ["0.weight", "3.weight"]),
        (nn.Linear, ["3.weight"]),
        ([nn.Linear, "0"], ["0.weight", "3.weight"]),
        (lambda name, module: module.weight.shape[0] == 8, ["0.weight", "1.weight", "3.weight"]),
        ("*.bias", ["0.bias", "1.bias", "3.bias"]),
        ([(model[3], "bias"), (model[0], "weight")], ["0.weight", "3.bias"]),
    ):
        assert [target.name for target in mask.choose(model, select)] == names
    assert [target.name for target in mask.choose(model[0])] == ["weight"]


def test_seeds_decide_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    masks = []
    for _ in range(2):
        model = big_and_small()
        torch.random.set_rng_state(state)
        mask.prune(model, "random", amount=0.5, seed=7)
        masks.append(model[0].weight_mask)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*masks)


def test_every_structure_has_its_own_word():
    words = [*WORDS, "2:4"]
    for word in words:
        assert sum(bool(__import__("re").fullmatch(pattern, word)) for pattern in structures) == 1
