"""A budget and a scope are one file each: this one plugs in its own."""

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.asking import Ask
from secateur.costs.meter import CostMeter, macs_meter, size_term
from secateur.errors import RequestError
from secateur.score import score
from secateur.select import Budget, Floors
from secateur.select.budget import budget, budgets
from secateur.select.scope import scope, scopes
from secateur.select.units import units_of
from secateur.select.widths import Widths

X = torch.zeros(1, 5)


def biases_meter(groups):
    """Numbers in biases, of which a wide layer has no more than a narrow one."""
    names = [name for name in groups.graph.tensors if name.endswith("bias")]
    return CostMeter([size_term(groups.dims(name)) for name in names])


@pytest.fixture
def plugged():
    """What a file in the folder would hold, taken out again afterwards."""
    dict(budgets), dict(scopes)  # the folders are loaded first

    @budget("biases")
    class Biases(Budget):
        """Numbers in biases that may stay, as a share or a count."""

        unit = "numbers"
        meter = staticmethod(biases_meter)

    @scope("first-come")
    def first_come(units):
        """The first group loses all that it may, then the second."""
        return [index for index, unit in enumerate(units) for _ in range(unit.free)]

    yield Biases
    del budgets._entries["biases"], scopes._entries["first-come"]


def network(*widths):
    torch.manual_seed(0)
    layers = [nn.Linear(one, two) for one, two in zip((5, *widths), (*widths, 3), strict=True)]
    return nn.Sequential(*layers)


def biases(model):
    return sum(tensor.numel() for name, tensor in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(("given", "wanted"), [(0.5, 61), ("25%", 30), (40, 40), ("0.05k", 50)])
def test_a_budget_that_is_plugged_in_is_met_like_any_other(plugged, given, wanted):
    model = network(64, 40, 16)
    result = sc.prune(model, X, biases=given)
    assert wanted - 1 <= biases(result.model) <= wanted
    assert result.plan.account.reached == biases(result.model)
    assert (result.plan.account.kind, result.plan.account.whole) == ("biases", biases(model))
    assert result.verdict.passed


def test_it_is_explained_and_saved_with_the_plan(plugged, tmp_path):
    result = sc.prune(network(64, 40), X, biases="60%", channels={"0": 0.25})
    assert str(result.plan.requested) == "biases=0.6, at most {'0': 0.25}"
    assert len(result.plan.keep["0"]) >= 48
    sc.save(result, tmp_path)
    text = (tmp_path / "plan.json").read_text()
    assert sc.Plan.from_json(text) == result.plan
    why = sc.explain(sc.Plan.from_json(text))
    assert "next step saves (numbers)" in " ".join(str(why).split())
    assert why["1"].saves == 1
    assert (
        str(sc.Plan.from_json(text).model_copy(update={"requested": "biases=0.5"}).requested) == "biases=0.5"
    )


def test_a_plan_by_a_budget_that_is_not_there_still_opens(plugged):
    text = sc.prune(network(64, 40), X, biases=0.5).plan.to_json()
    held = budgets._entries.pop("biases")
    try:
        plan = sc.Plan.from_json(text)
        assert str(plan.requested) == "biases=0.5"
        assert "biases by l2" in str(sc.explain(plan))
        with pytest.raises(TypeError, match="unexpected keyword argument 'biases'"):
            sc.prune(network(64, 40), X, biases=0.5)
    finally:
        budgets._entries["biases"] = held


def test_its_words_are_refused_as_those_of_others(plugged):
    with pytest.raises(RequestError, match="biases is 'many'"):
        Ask.of(biases="many")
    with pytest.raises(RequestError, match="2 budgets were given: biases, macs"):
        Ask.of(biases=0.5, macs=0.5)
    with pytest.raises(RequestError, match="biases=2 allows 2, the smallest reachable is 1"):
        sc.prune(network(64, 40), X, biases=2)
    assert plugged.help() == "Numbers in biases that may stay, as a share or a count."


def test_a_scope_that_is_plugged_in_orders_the_groups(plugged):
    keep = sc.prune(network(64, 40), X, ratio=0.25, scope="first-come", min_keep=0.5).plan.keep
    assert {name: len(kept) for name, kept in keep.items()} == {"0": 38, "1": 40}
    with pytest.raises(RequestError, match=r"unknown scope 'first'\n"):
        Ask.of(ratio=0.25, scope="first")


@pytest.mark.parametrize("name", sorted(scopes))
def test_every_scope_takes_each_free_channel_once(name):
    model = network(9, 9, 4)
    groups = sc.couple(model, X)
    units = units_of(groups, score(model, groups, "l2"), Floors(0.3))
    widths = Widths(groups, units, 1, macs_meter(groups))
    counts = np.bincount(scopes[name].order(widths), minlength=len(units))
    assert counts.tolist() == [unit.free for unit in units] == [6, 6, 2]


@pytest.mark.parametrize("word", sorted(budgets))
def test_every_budget_says_what_it_is(word):
    held = budgets[word]
    assert held.kind == word
    assert held.help()
    assert held.unit
