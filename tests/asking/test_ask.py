"""One request: read in one place, shown by every function that takes it, and held by the plan."""

import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.asking import Ask, PlanWords, Words
from secateur.asking.words import explained
from secateur.domains.classification import load
from secateur.errors import RequestError
from secateur.iterative import Recipe, iterate
from secateur.select.budget import budgets
from secateur.train import FitConfig
from secateur.zoo import models

X = torch.zeros(1, 3, 6, 6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.body = nn.Sequential(nn.Conv2d(16, 20, 1), nn.ReLU(), nn.Conv2d(20, 12, 1))
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        return self.fc(self.body(self.stem(x).relu()).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().eval()


def widths(result):
    return {name: len(kept) for name, kept in result.plan.keep.items()}


# The words.


def test_the_words_are_the_budgets_and_the_fields_of_ask():
    options = {field.name for field in fields(Ask)} - {"budget"}
    assert set(Words.__annotations__) == options | set(budgets) == set(explained())
    assert set(Words.__annotations__) - set(PlanWords.__annotations__) == {
        "recover",
        "search",
        "depth",
        "check",
    }


@pytest.mark.parametrize(("function", "words"), [(sc.prune, Words), (sc.plan, PlanWords)])
def test_functions_show_every_word_with_its_default_and_meaning(function, words):
    shown = inspect.signature(function).parameters
    for word in words.__annotations__:
        meaning, default = explained()[word]
        assert shown[word].default == default
        assert shown[word].kind is inspect.Parameter.KEYWORD_ONLY
        assert meaning
        assert f"{word}: {meaning[:20]}" in " ".join(function.__doc__.split())
    assert not set(shown) & {"words", *(set(Words.__annotations__) - set(words.__annotations__))}
    assert "**words" not in function.__doc__


@pytest.mark.parametrize("function", [sc.prune, sc.plan])
def test_unknown_words_are_refused_as_python_does(function):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'raito'\. Did you mean 'ratio'\?"):
        function(net(), X, raito=0.5)


@pytest.mark.parametrize("word", [{"check": True}, {"recover": "refit"}, {"search": 8}, {"depth": True}])
def test_a_plan_has_no_words_for_what_comes_after(word):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(word))}'"):
        sc.plan(net(), X, ratio=0.5, **word)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "0 budgets were given: none"),
        ({"ratio": 0.5, "criterion": "l3"}, "unknown criterion 'l3'"),
        ({"ratio": 0.5, "scope": "all"}, "unknown scope 'all'"),
        ({"ratio": 0.5, "axes": "all"}, "unknown axes 'all'"),
        ({"ratio": 0.5, "round_to": 0}, "round_to is 0"),
        ({"ratio": 0.5, "min_keep": -1}, "min_keep is -1"),
        ({"ratio": 0.5, "min_keep": {"stem": 2}}, r"min_keep\['stem'\] is 2"),
        ({"ratio": 0.5, "max_ratio": 1.5}, "max_ratio is 1.5"),
        ({"ratio": 0.5, "max_ratio": "many"}, "max_ratio is 'many'"),
    ],
)
def test_senseless_requests_are_refused_before_anything_is_run(words, message):
    with pytest.raises(RequestError, match=message):
        Ask.of(**words)


def test_a_request_is_made_once_and_taken_many_times():
    ask = Ask.of(params=0.5, scope="local", round_to=4)
    assert widths(sc.prune(net(), X, ask)) == widths(
        sc.prune(net(), X, params=0.5, scope="local", round_to=4)
    )
    assert widths(sc.prune(net(), X, ask, round_to=1)) == widths(
        sc.prune(net(), X, params=0.5, scope="local")
    )
    assert sc.plan(net(), X, ask, ratio=0.5).requested.kind == "ratio"
    with pytest.raises(RequestError, match="budget and macs were both given"):
        Ask.of(budget=ask.budget, macs=0.5)


def test_a_plan_holds_what_decided_it_beside_the_budget():
    model = net()
    plan = sc.prune(
        model, X, macs=0.5, scope="local", round_to=np.int64(2), seed=3, protect=[model.fc], recover="absorb"
    ).plan
    assert plan.requested.options == {"scope": "local", "round_to": 2, "seed": 3, "protect": ["fc"]}
    assert sc.Plan.from_json(plan.to_json()) == plan
    assert sc.prune(net(), X, macs=0.5).plan.requested.options == {}
    by_hand = sc.prune(net(), X, ratio=0.5, criterion=lambda view: view.weights[0].abs().sum(1)).plan
    assert by_hand.requested.options == {"criterion": "<lambda>"}


# Caps and floors.


@pytest.mark.parametrize("budget", [{"macs": 0.3}, {"ratio": 0.7}, {"params": 0.3}, {"memory": 0.6}])
@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
def test_no_group_loses_more_than_max_ratio(budget, scope):
    def last(view):
        return torch.arange(view.size) + (0.0 if view.name == "body.0" else 100.0)

    found = widths(sc.prune(net(), X, **budget, scope=scope, criterion=last, max_ratio=0.75))
    assert all(found[name] >= 0.25 * size for name, size in (("stem", 16), ("body.0", 20), ("body.2", 12)))


def test_max_ratio_is_the_other_side_of_min_keep():
    assert widths(sc.prune(net(), X, ratio=0.7, max_ratio="80%")) == widths(
        sc.prune(net(), X, ratio=0.7, min_keep=0.2)
    )
    assert widths(sc.prune(net(), X, channels={"*": 0.9}, max_ratio=0.5)) == {
        "stem": 8,
        "body.0": 10,
        "body.2": 6,
    }


def test_floors_by_group_hold_beside_a_budget_and_others_keep_the_usual_one():
    found = widths(sc.prune(net(), X, ratio=0.8, min_keep={"stem": 0.75, "body.*": 0.0}))
    assert found["stem"] == 12
    assert sum(found.values()) == 14  # the others give what is left of 10
    only = sc.explain(sc.prune(net(), X, ratio=0.5, min_keep={"stem": 0.5}))
    assert [only[name].floor for name in ("stem", "body.0", "body.2")] == [8, 2, 2]
    several = sc.explain(sc.prune(net(), X, ratio=0.3, min_keep={"*": 0.5, "stem": 0.25}, max_ratio=0.4))
    assert [several[name].floor for name in ("stem", "body.0", "body.2")] == [10, 12, 8]


def test_a_floor_that_fits_nothing_is_refused():
    with pytest.raises(RequestError, match="min_keep pattern 'steam' fits no group\n"):
        sc.prune(net(), X, ratio=0.5, min_keep={"steam": 0.5})
    with pytest.raises(RequestError, match="min_keep pattern 'stem' fits no group that can be cut"):
        sc.prune(net(), X, ratio=0.5, min_keep={"stem": 0.5}, protect="stem")


# Modules and parameters.


def test_modules_and_parameters_stand_for_their_names():
    model = net()
    for by_part, by_name in (
        ({"channels": {model.stem: 0.25, model.body: "50%"}}, {"channels": {"stem": 0.25, "body.*": 0.5}}),
        ({"ratio": {model.body[0].weight: 0.5}}, {"channels": {"body.0": 0.5}}),
        ({"keep": {model.body[2]: [0, 3]}}, {"keep": {"body.2": [0, 3]}}),
        ({"ratio": 0.8, "min_keep": {model.stem: 0.5}}, {"ratio": 0.8, "min_keep": {"stem": 0.5}}),
        ({"keep": {model.stem: [1], "body.0": [2]}}, {"keep": {"stem": [1], "body.0": [2]}}),
        ({"macs": 0.5, "channels": {model: 0.6}}, {"macs": 0.5, "channels": {"*": 0.6}}),
    ):
        one, other = sc.prune(model, X, **by_part).plan, sc.prune(model, X, **by_name).plan
        assert one.keep == other.keep
        assert all(isinstance(name, str) for name in one.requested.parts)


@pytest.mark.parametrize("word", ["channels", "min_keep", "keep"])
def test_a_part_of_another_model_is_refused(word):
    words = {"min_keep": {"ratio": 0.5, "min_keep": {nn.Linear(2, 2): 0.5}}}
    other = {"channels": {nn.Linear(2, 2): 0.5}, "keep": {nn.Linear(2, 2): [0]}}
    with pytest.raises(RequestError, match=f"{word} holds a Linear that is no part of Net"):
        sc.prune(net(), X, **words.get(word, {word: other.get(word)}))


def test_names_that_are_numbers_may_be_written_as_numbers():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.zeros(1, 3)
    assert widths(sc.prune(model, x, channels={0: 0.5})) == {"0": 4}
    assert widths(sc.prune(model, x, keep={0: [1, 2]})) == {"0": 2}


# Steps.


def test_a_recipe_takes_a_request_as_it_is():
    tune = FitConfig(epochs=1)
    recipe = Recipe(tune, ask=Ask.of(macs=0.5, round_to=4), steps=3)
    assert (recipe.ask.round_to, recipe.ask.recover, recipe.budget.kind) == (4, None, "macs")
    assert Recipe(tune, macs=0.5).ask.recover == ("absorb", "refit")
    assert replace(recipe, min_keep=0.3).ask == replace(recipe.ask, min_keep=0.3)
    for words in ({"latency_ms": "50%"}, {"keep": {"stem": [0]}}, {"channels": {"stem": 0.5}}):
        with pytest.raises(RequestError, match="cannot be asked for in steps"):
            Recipe(tune, **words)


def test_caps_and_floors_hold_over_all_steps_together():
    torch.manual_seed(0)
    model = models["vgg11"](width=1 / 8, in_channels=1, image_size=8)
    tune = FitConfig(epochs=1, quiet=True)
    x, digits = torch.zeros(1, 1, 8, 8), load("digits")
    sizes = {group.name: group.size for group in sc.couple(model, x).prunable}
    first, second, *_ = sizes
    recipe = Recipe(
        tune, steps=3, ratio=0.7, channels={first: 0.25}, min_keep={second: 0.5}, recover=(), check=False
    )
    done = iterate(model, x, digits, recipe)
    now = {group.name: group.size for group in sc.couple(done.model, x).prunable}
    assert now[first] >= 0.75 * sizes[first]
    assert now[second] >= 0.5 * sizes[second]
    assert sum(now.values()) == pytest.approx(0.3 * sum(sizes.values()), abs=2)
    with pytest.raises(RequestError, match="channels pattern 'steam' fits no group"):
        iterate(model, x, digits, Recipe(tune, steps=2, ratio=0.5, channels={"steam": 0.5}, recover=()))
