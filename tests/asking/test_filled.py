"""What a request without a criterion does, with data and without."""

import pytest
import torch
from torch import nn

import secateur as sc

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(1)
    layers = [nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 5)]
    return nn.Sequential(*layers).eval()


DATA = list(X.split(8))


def test_with_data_alone_what_remains_after_the_refit_decides_and_is_recovered(net):
    made = sc.prune(net, X[:1], macs=0.5, data=DATA)
    account = made.plan.account
    assert (account.criterion, account.scope) == ("after-refit", "curves")
    assert {one.step for one in made.recovered} == {"absorb", "refit"}
    assert made.plan.requested.options == {"criterion": "after-refit", "scope": "curves"}
    same = sc.prune(
        net, X[:1], macs=0.5, data=DATA, criterion="after-refit", scope="curves", recover=["absorb", "refit"]
    )
    assert all(map(torch.equal, made.model.state_dict().values(), same.model.state_dict().values()))


@pytest.mark.parametrize("axes", ["widths", "both"])
def test_where_heads_may_lose_width_attention_is_made_up_for(axes):
    filled = sc.Ask.of(macs=0.5, axes=axes).filled(has_data=True)
    assert filled.recover == ("absorb", "attention", "refit")
    assert sc.Ask.of(macs=0.5, axes=axes, recover=["refit"]).filled(has_data=True).recover == ["refit"]
    assert sc.Ask.of(macs=0.5, axes=axes).filled(has_data=False).recover is None


def test_what_is_named_is_kept(net):
    plain = sc.prune(net, X[:1], macs=0.5, data=DATA, recover=[])
    assert plain.plan.account.criterion == "after-refit"
    assert not plain.recovered
    named = sc.prune(net, X[:1], macs=0.5, data=DATA, criterion="l2")
    assert (named.plan.account.criterion, named.plan.account.scope) == ("l2", "global")
    assert not named.recovered
    assert sc.prune(net, X[:1], macs=0.5, data=DATA, scope="local").plan.account.scope == "local"


def test_without_data_nothing_has_changed(net):
    bare, named = (
        sc.prune(net, X[:1], macs=0.5),
        sc.prune(net, X[:1], macs=0.5, criterion="l2", scope="global"),
    )
    assert bare.plan.requested == named.plan.requested
    assert all(map(torch.equal, bare.model.state_dict().values(), named.model.state_dict().values()))


def test_it_is_nearer_to_the_dense_model_than_by_size(net):
    best = sc.prune(net, X[:1], macs=0.4, data=DATA)
    by_size = sc.prune(net, X[:1], macs=0.4, data=DATA, criterion="l2", recover=["absorb", "refit"])
    assert best.errors[-1].after < by_size.errors[-1].after


def test_a_plan_made_with_data_keeps_what_the_cut_kept(net):
    plan = sc.plan(net, X[:1], macs=0.5, data=DATA)
    made = sc.prune(net, X[:1], macs=0.5, data=DATA)
    assert [group.keep for group in plan.groups] == [group.keep for group in made.plan.groups]
