"""Laws of the selection: exactly what was asked, never below a floor, whatever the scores are."""

import warnings
from math import ceil

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.errors import NoEffectWarning, RequestError
from secateur.score import Scores, score
from secateur.select import Budget, select

SCOPES = ("global", "local", "isomorphic")


def chain(*widths):
    layers = [nn.Linear(one, two) for one, two in zip((3, *widths), (*widths, 2), strict=True)]
    return nn.Sequential(*layers)


def solve(model, x):
    return couple_graph(capture(model, x))


GROUPS = {
    widths: solve(chain(*widths), torch.zeros(1, 3))
    for widths in [(8,), (4, 6), (10, 10, 10), (16, 3, 7), (2, 32), (5, 5, 8, 8)]
}


@st.composite
def problems(draw):
    """Groups with scores; whole numbers, so that many are equal, or all of them."""
    groups = GROUPS[draw(st.sampled_from(list(GROUPS)))]
    largest = draw(st.sampled_from([0, 1, 3, 1000]))
    by_group = {
        group.name: torch.tensor(
            draw(st.lists(st.integers(0, largest), min_size=group.size, max_size=group.size))
        ).double()
        for group in groups.prunable
    }
    return groups, Scores("drawn", by_group, {})


def kept(selection):
    return {name: len(indices) for name, indices in selection.keep.items()}


ratios = st.floats(0, 0.999)


@given(problems(), ratios)
def test_a_global_ratio_removes_exactly_the_asked_number(problem, ratio):
    groups, scores = problem
    whole = sum(group.size for group in groups.prunable)
    selection = select(groups, scores, Budget.of(ratio=ratio), min_keep=0)
    most = whole - len(scores.by_group)
    removed = whole - sum(kept(selection).values())
    assert abs(removed - min(ratio * whole, most)) <= 0.5 + 1e-9
    assert selection.reached == whole - removed
    assert selection.wanted == pytest.approx((1 - ratio) * whole)


@given(problems(), ratios, st.floats(0, 1), st.sampled_from(SCOPES))
def test_no_group_goes_below_its_floor(problem, ratio, min_keep, scope):
    groups, scores = problem
    selection = select(groups, scores, Budget.of(ratio=ratio), scope=scope, min_keep=min_keep)
    for name, left in kept(selection).items():
        floor = max(1, ceil(min_keep * groups[name].size))
        assert left >= floor
        assert (name in selection.floored) == (left == floor < groups[name].size)


@given(problems(), ratios, st.integers(1, 9), st.sampled_from(SCOPES))
def test_kept_counts_are_rounded_up(problem, ratio, round_to, scope):
    groups, scores = problem
    selection = select(groups, scores, Budget.of(ratio=ratio), scope=scope, round_to=round_to)
    for name, left in kept(selection).items():
        assert left % round_to == 0 or left == groups[name].size


@given(problems(), ratios, st.sampled_from(SCOPES))
def test_the_lowest_scores_of_a_group_go_first(problem, ratio, scope):
    groups, scores = problem
    selection = select(groups, scores, Budget.of(ratio=ratio), scope=scope)
    for name, indices in selection.keep.items():
        assert list(indices) == sorted(set(indices))
        values = scores.by_group[name].numpy()
        gone = np.delete(values, indices)
        assert not gone.size or gone.max() <= values[list(indices)].min()


@given(problems(), ratios)
def test_globally_what_goes_scores_no_more_than_what_stays(problem, ratio):
    groups, scores = problem
    selection = select(groups, scores, Budget.of(ratio=ratio), min_keep=0)
    gone, stays = [], []
    for name, indices in selection.keep.items():
        values = scores.by_group[name].numpy()
        gone.extend(np.delete(values, indices))
        if name not in selection.floored:
            stays.extend(values[list(indices)])
    assert not gone or not stays or max(gone) <= min(stays)


@given(problems(), ratios, ratios, st.sampled_from(SCOPES), st.integers(1, 4))
def test_a_larger_ratio_keeps_a_subset(problem, one, two, scope, round_to):
    groups, scores = problem
    less, more = (
        select(groups, scores, Budget.of(ratio=ratio), scope=scope, round_to=round_to)
        for ratio in sorted([one, two])
    )
    for name, indices in more.keep.items():
        assert set(indices) <= set(less.keep[name])


@given(problems(), ratios)
def test_a_local_ratio_removes_the_same_share_of_every_group(problem, ratio):
    groups, scores = problem
    selection = select(groups, scores, Budget.of(ratio=ratio), scope="local", min_keep=0)
    for name, left in kept(selection).items():
        size = groups[name].size
        assert size - left == min(round(ratio * size), size - 1)


@given(st.lists(st.floats(0, 1), min_size=20, max_size=20), st.floats(0, 0.9))
def test_isomorphic_groups_compete_with_their_like_only(values, ratio):
    groups = GROUPS[5, 5, 8, 8]
    drawn = iter(values * 2)
    by_group = {
        group.name: torch.tensor([next(drawn) * 1000**at for _ in range(group.size)]).double()
        for at, group in enumerate(groups.prunable)
    }
    selection = select(
        groups, Scores("drawn", by_group, {}), Budget.of(ratio=ratio), scope="isomorphic", min_keep=0
    )
    signatures = {}
    for name, left in kept(selection).items():
        shapes = tuple(groups.graph.values[groups.graph.tensors[f"{name}.weight"]].shape)
        signatures.setdefault(groups[name].size, []).append((left, shapes))
    for size, found in signatures.items():
        whole = size * len(found)
        floored = any(left == 1 for left, _ in found)
        assert floored or abs(sum(left for left, _ in found) - (1 - ratio) * whole) <= 1.5


class Halves(nn.Module):
    """Two groups whose channels meet in a chunk: they must keep equal counts."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(3, 8)
        self.free, self.last = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        left, right = torch.cat([self.one(x), self.two(x)], 1).chunk(2, 1)
        return self.last(self.free(left).relu()) + right.sum(1, keepdim=True)


TIED = solve(Halves(), torch.zeros(1, 3))


@given(st.lists(st.integers(0, 5), min_size=22, max_size=22), ratios, st.sampled_from(SCOPES))
def test_tied_groups_keep_equal_counts(values, ratio, scope):
    drawn = iter(values)
    by_group = {
        group.name: torch.tensor([next(drawn) for _ in range(group.size)]).double() for group in TIED.prunable
    }
    selection = select(TIED, Scores("drawn", by_group, {}), Budget.of(ratio=ratio), scope=scope)
    ((names, _),) = TIED.ties
    assert names == ("one", "two")
    assert len({kept(selection)[name] for name in names}) == 1


def test_all_equal_scores_lose_exactly_the_asked_number():
    groups = GROUPS[10, 10, 10]
    scores = Scores("equal", {group.name: torch.ones(10).double() for group in groups.prunable}, {})
    for wanted in range(28):
        selection = select(groups, scores, Budget.of(ratio=wanted / 30), min_keep=0)
        assert 30 - sum(kept(selection).values()) == wanted


@pytest.fixture(scope="module", params=["vgg11_bn", "resnet18"])
def network(request):
    torch.manual_seed(0)
    if request.param == "resnet18":
        model = torchvision.models.resnet18()
    else:
        layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)
        model = nn.Sequential(layers, nn.Flatten(), nn.Linear(512 * 4, 10))
    groups = solve(model, torch.zeros(1, 3, 64, 64))
    return groups, score(model, groups, "l2")


@settings(max_examples=15)
@given(share=st.floats(0.25, 1.0), kind=st.sampled_from(["macs", "params"]), scope=st.sampled_from(SCOPES))
def test_a_budget_is_met_within_one_percent(network, share, kind, scope):
    groups, scores = network
    whole = getattr(groups, kind)({})
    selection = select(groups, scores, Budget.of(**{kind: share}), scope=scope, min_keep=0.02)
    counts = {groups[name].axis: len(indices) for name, indices in selection.keep.items()}
    assert selection.reached == getattr(groups, kind)(counts)
    assert abs(selection.reached - share * whole) <= 0.01 * share * whole


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_budget_may_be_a_count(network, kind):
    groups, scores = network
    count = getattr(groups, kind)({}) // 2
    selection = select(groups, scores, Budget.of(**{kind: count}))
    assert abs(selection.reached - count) <= 0.01 * count


def test_a_budget_out_of_reach_is_refused_with_what_can_be_had(network):
    with pytest.raises(RequestError, match=r"macs=0.001 allows [\d,]+, the smallest reachable is [\d,]+"):
        select(*network, Budget.of(macs=0.001))


def test_a_budget_larger_than_the_model_is_refused(network):
    with pytest.raises(RequestError, match="the uncut model has"):
        select(*network, Budget.of(params=10**12))


def test_channels_are_chosen_by_pattern():
    groups = GROUPS[16, 3, 7]
    scores = Scores("equal", {group.name: torch.ones(group.size).double() for group in groups.prunable}, {})
    selection = select(groups, scores, Budget.of(channels={"0": 0.5, "2": 0.3}))
    assert kept(selection) == {"0": 8, "1": 3, "2": 5}


def test_a_channel_pattern_that_fits_nothing_is_refused():
    groups = GROUPS[16, 3, 7]
    scores = Scores("equal", {group.name: torch.ones(group.size).double() for group in groups.prunable}, {})
    with pytest.raises(RequestError, match="channels pattern 'layer9' fits no group"):
        select(groups, scores, Budget.of(channels={"layer9": 0.5}))


@pytest.mark.parametrize("asked", [{"ratio": 0.0}, {"macs": 1.0}, {"params": 1.0}])
def test_asking_for_nothing_warns_and_gives_an_equal_model(asked):
    model = chain(6, 5)
    with pytest.warns(NoEffectWarning, match="asks for nothing"):
        result = sc.prune(model, torch.zeros(1, 3), **asked)
    assert result.model is not model
    states = zip(model.state_dict().values(), result.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in states)


@pytest.mark.parametrize("ratio", [1, 1.0, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(RequestError, match=r"ratio is .*\n  allowed: 0 <= ratio < 1"):
        sc.prune(chain(6, 5), torch.zeros(1, 3), ratio=ratio)


def test_a_ratio_that_rounds_to_nothing_is_an_error_with_every_group():
    with (
        warnings.catch_warnings(),
        pytest.raises(RequestError, match=r"prunes nothing\n(.|\n)*0: keeps 6 of 6"),
    ):
        sc.prune(chain(6, 5), torch.zeros(1, 3), ratio=0.01)


@pytest.mark.parametrize(
    "wrong", [{"scope": "galactic"}, {"min_keep": 1.5}, {"min_keep": -0.1}, {"round_to": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(RequestError):
        sc.prune(chain(6, 5), torch.zeros(1, 3), ratio=0.5, **wrong)


def test_equal_scores_are_taken_from_all_groups_evenly():
    groups = GROUPS[2, 32]
    scores = Scores("equal", {group.name: torch.ones(group.size).double() for group in groups.prunable}, {})
    assert list(kept(select(groups, scores, Budget.of(ratio=0.5), scope="global")).values()) == [1, 16]
