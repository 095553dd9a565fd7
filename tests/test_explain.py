"""Every group of a plan says why it has its width."""

import json

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.select import budget_of

X = torch.zeros(1, 3, 8, 8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 4, 3))


def test_the_threshold_lies_between_what_went_and_what_stayed():
    model = network()
    result = sc.prune(model, X, ratio=0.5)
    norms = model[0].weight.flatten(1).norm(dim=1)
    assert norms.shape == (16,)
    for why in sc.explain(result.plan).groups:
        if why.decided == "budget":
            assert why.highest_removed <= why.lowest_kept
    lows = [why.highest_removed for why in sc.explain(result.plan).groups[:2]]
    highs = [why.lowest_kept for why in sc.explain(result.plan).groups[:2]]
    assert max(lows) <= min(highs)  # global: one threshold for all groups


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.6}, {"size_bytes": 0.6}, {"memory": 0.7}])
def test_what_the_next_channel_saves_and_costs_is_what_the_budget_says(budget):
    result = sc.prune(network(), X, **budget)
    groups, meter = result.groups, budget_of(next(iter(budget))).meter(result.groups)
    kept = {groups[name].axis: len(indices) for name, indices in result.plan.keep.items()}
    for name in result.plan.keep:
        why, held = sc.explain(result.plan)[name], groups[name].axis
        assert why.saves == meter.at(kept) - meter.at({**kept, held: kept[held] - 1})
        if why.costs is not None:
            assert why.costs == meter.at({**kept, held: kept[held] + 1}) - meter.at(kept)


def test_the_floor_is_named():
    why = sc.explain(sc.prune(network(), X, ratio=0.9, min_keep=0.5))
    assert {group.decided for group in why.groups[:2]} == {"floor"}
    assert [(group.kept, group.floor, group.saves) for group in why.groups[:2]] == [
        (8, 8, None),
        (12, 12, None),
    ]


def test_rounding_is_explained():
    why = sc.explain(sc.prune(network(), X, ratio=0.5, scope="local", round_to=6))
    assert why["0"].decided == "rounding"
    assert why["0"].rounding == "8 rounded up to a multiple of 6"
    assert (why["0"].kept, why["0"].step) == (12, 6)
    assert "rounded 0: 8 rounded up" in str(why)


def test_protection_is_explained():
    why = sc.explain(sc.prune(network(), X, ratio=0.3, protect=["0.bias"]))
    assert (why["0"].decided, why["0"].reason) == ("protected", "asked for by protect='0.bias'")
    assert "left alone 0: asked for by protect='0.bias'" in str(why)


def test_what_was_asked_for_by_name_is_said_so():
    assert sc.explain(sc.prune(network(), X, keep={"0": [1, 2]}))["0"].decided == "asked"
    by_share = sc.explain(sc.prune(network(), X, channels={"0": 0.5}))
    assert (by_share["0"].decided, by_share["2"].decided) == ("asked", "whole")


def test_groups_that_keep_equal_counts_name_each_other():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            left, right = self.one(x).chunk(2, -1)
            return self.left(left), self.right(right)

    why = sc.explain(sc.prune(Tied(), torch.zeros(1, 3), ratio=0.5))
    one, two = (group for group in why.groups if group.decided == "budget")
    assert (one.together, two.together) == ((two.name,), (one.name,))
    assert f"equal counts: {min(one.name, two.name)}" in str(why)


def test_a_plan_explains_itself_after_it_was_saved():
    result = sc.prune(network(), X, memory=0.7)
    again = sc.Plan.from_json(result.plan.to_json())
    assert sc.explain(again) == sc.explain(result.plan) == sc.explain(result)
    assert str(sc.explain(again)) == str(sc.explain(result))


def test_it_is_plain_values_and_a_table():
    result = sc.prune(network(), X, macs=0.5)
    why = sc.explain(result)
    values = json.loads(json.dumps(why.to_dict()))
    assert values["account"]["kind"] == "macs"
    assert values["account"]["reached"] == result.after.macs
    assert [group["name"] for group in values["groups"][:2]] == ["0", "2"]
    text = str(why)
    assert "why these widths: macs=0.5" in text
    assert f"{result.after.macs:,} of " in text
    assert f"16 -> {why['0'].kept}" in text


def test_a_plan_from_before_has_no_reasons():
    result = sc.prune(network(), X, ratio=0.5)
    data = json.loads(result.plan.to_json())
    del data["account"]
    for group in data["groups"]:
        del group["why"]
    why = sc.explain(sc.Plan.from_json(json.dumps(data)))
    assert why["0"].decided == "not recorded"
    assert why.account is None
    assert "16 -> " in str(why)


def test_the_curve_of_a_group_leads_through_its_width_and_prints_where_scores_are_errors():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4))
    data = [torch.randn(64, 8) for _ in range(4)]
    plan = sc.plan(net, data[0][:1], macs=0.5, data=data)
    for name in ("0", "2"):
        why = sc.explain(plan)[name]
        gone, errors = zip(*why.curve, strict=True)
        assert gone[0] == 0
        assert gone[-1] == why.size - why.floor
        assert why.size - why.kept in gone
        assert errors[0] == 0
        assert list(errors) == sorted(errors)
        assert errors[-1] <= 1.01
        assert f"error by channels gone, {name}: 0: 0" in str(sc.explain(plan))
        assert f"[{why.size - why.kept}: " in str(sc.explain(plan))
    assert "error by" not in str(sc.explain(sc.plan(net, data[0][:1], macs=0.5)))
