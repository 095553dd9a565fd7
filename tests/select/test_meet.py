"""Counted budgets: met within one percent, whatever the rounding, and nothing goes that need not."""

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.score import score
from secateur.select import Budget, budget_of, select


def network():
    """The first maps are large and few, the last small and many."""
    layers, width = [], 3
    for channels, stride in ((64, 1), (96, 1), (128, 2), (256, 2), (256, 2)):
        layers += [nn.Conv2d(width, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU()]
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


@pytest.fixture(scope="module")
def scored():
    torch.manual_seed(0)
    model = network()
    groups = sc.couple(model, torch.zeros(4, 3, 32, 32))
    return groups, score(model, groups, "l2")


def counts_of(groups, selection):
    return {groups[name].axis: len(kept) for name, kept in selection.keep.items()}


@pytest.mark.parametrize("kind", ["macs", "params", "size_bytes", "memory"])
@pytest.mark.parametrize("scope", ["global", "isomorphic", "local"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_counted_budget_is_met_within_one_percent(scored, kind, scope, share):
    groups, scores = scored
    meter = budget_of(kind).meter(groups)
    selection = select(groups, scores, Budget.of(**{kind: share}), scope=scope)
    assert selection.reached == meter.at(counts_of(groups, selection))
    assert 0.99 * share <= selection.reached / meter.at({}) <= share


@pytest.mark.parametrize("kind", ["macs", "params", "size_bytes", "memory"])
def test_rounding_does_not_leave_a_budget_unused(scored, kind):
    groups, scores = scored
    selection = select(groups, scores, Budget.of(**{kind: 0.5}), round_to=8)
    assert 0.99 <= selection.reached / selection.wanted <= 1
    assert all(len(kept) % 8 == 0 for kept in selection.keep.values())


def test_memory_takes_nothing_from_layers_that_do_not_bear_on_it(scored):
    groups, scores = scored
    selection = select(groups, scores, Budget.of(memory=0.9))
    meter, counts = budget_of("memory").meter(groups), counts_of(groups, selection)
    cut = [axis for axis, count in counts.items() if count < axis.size]
    assert cut
    for axis in cut:
        assert meter.at({**counts, axis: counts[axis] + 1}) > selection.wanted


def test_the_best_of_each_group_are_given_back(scored):
    groups, scores = scored
    selection = select(groups, scores, Budget.of(memory=0.5))
    for name, kept in selection.keep.items():
        order = np.argsort(scores.by_group[name].numpy(), kind="stable")
        assert set(kept) == set(order[len(order) - len(kept) :].tolist())


def test_under_local_shares_stay_alike(scored):
    groups, scores = scored
    selection = select(groups, scores, Budget.of(size_bytes=0.5), scope="local", round_to=8)
    shares = [len(kept) / groups[name].size for name, kept in selection.keep.items()]
    assert max(shares) - min(shares) <= 2 * 8 / 64


def test_an_amount_and_a_text_say_the_same(scored):
    groups, scores = scored
    whole = int(budget_of("size_bytes").meter(groups).at({}))
    chosen = [
        select(groups, scores, Budget.of(size_bytes=value)).keep
        for value in (whole // 2, f"{whole // 2}", f"{whole // 2 / 1000}kB")
    ]
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.parametrize("kind", ["size_bytes", "memory"])
def test_what_is_out_of_reach_is_refused_with_what_can_be_had(scored, kind):
    groups, scores = scored
    with pytest.raises(RequestError, match=rf"{kind}=1000 allows 1,000, the smallest reachable is [\d,]+\n"):
        select(groups, scores, Budget.of(**{kind: 1000}))


@pytest.mark.parametrize("budget", [{"size_bytes": 0.5}, {"memory": 0.7}, {"memory": "40%"}])
def test_the_cut_model_costs_what_was_promised(budget):
    x = torch.zeros(2, 3, 32, 32)
    result = sc.prune(network(), x, **budget)
    account = result.plan.account
    now = result.after.size_bytes if "size_bytes" in budget else result.after.memory_bytes
    assert now == account.reached
    assert 0.99 * account.wanted <= now <= account.wanted
    assert result.verdict.exact


def test_a_plan_takes_them_too():
    with torch.device("meta"):
        empty = network()
    plan = sc.plan(empty, torch.zeros(2, 3, 32, 32), memory=0.5, criterion="random")
    assert 0.99 <= plan.account.reached / plan.account.wanted <= 1
