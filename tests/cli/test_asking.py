"""A request on the command line is the one that `secateur.prune` takes."""

from dataclasses import fields

import pytest
import torch
import yaml

import secateur as sc
from secateur.asking.words import explained
from secateur.cli.asking import AskOptions, CriterionOptions, read_words
from secateur.zoo import models

SIZES = {"width": 0.0625, "in_channels": 1, "image_size": 8}
MODEL = ("zoo:vgg11", *(word for name, size in SIZES.items() for word in ("--arg", f"{name}={size}")))
EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def keep():
    """What Python keeps of the same model."""

    def kept(**words):
        torch.manual_seed(0)
        return sc.prune(models["vgg11"](**SIZES), EXAMPLE, **words).plan

    return kept


def saved(folder):
    return sc.Plan.from_json((folder / "plan.json").read_text())


def test_every_word_of_a_request_is_an_option(run):
    assert {field.name: field.default for field in fields(AskOptions)} == {
        word: default for word, (_, default) in explained().items()
    }
    shown = run("prune", "--help").out
    assert all(f"--{word.replace('_', '-')} " in shown for word in explained())


def test_the_criterion_of_the_command_line_is_that_of_a_request():
    assert CriterionOptions().choose() is None
    assert CriterionOptions("l2").choose() == sc.criterion("l2")
    assert CriterionOptions(aggregate="max").choose() == sc.criterion("l2", aggregate="max")
    assert CriterionOptions.criterion == sc.Ask.criterion


CACHED = """
from torch import nn


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        held = self.inner(x)
        return {"y": self.last(held), "memory": held}
"""


def test_what_a_model_returns_for_its_next_call_can_be_named(run, tmp_path):
    (tmp_path / "cached.py").write_text(CACHED)
    words = ("inspect", f"{tmp_path / 'cached.py'}:Cached", "--input", "1,4", "--json")
    (plain, named) = (run(*words, *more).json["groups"] for more in ((), ("--state", "memory")))
    assert [group["prunable"] for group in plain if group["name"] == "inner"] == [False]
    assert [group["prunable"] for group in named if group["name"] == "inner"] == [True]


@pytest.mark.parametrize("word", ["modules or parameters", "module or parameter of the model", "{", "["])
def test_the_command_line_does_not_speak_of_what_only_python_can_say(word):
    assert word not in (AskOptions.__doc__ or "")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--ratio", "25%"), {"ratio": "25%"}),
        (
            ("--ratio", "feature.25=0.5,feature.0=0.25"),
            {"ratio": {"feature.25": 0.5, "feature.0": 0.25}},
        ),
        (
            ("--macs", "60%", "--channels", "feature.0=0.25,feature.4=0.5", "--channels", "feature.8=10%"),
            {"macs": 0.6, "channels": {"feature.0": 0.25, "feature.4": 0.5, "feature.8": 0.1}},
        ),
        (
            ("--params", "0.5", "--min-keep", "feature.2?=0.75", "--max-ratio", "60%", "--round-to", 2),
            {"params": 0.5, "min_keep": {"feature.2?": 0.75}, "max_ratio": "60%", "round_to": 2},
        ),
        (
            ("--params", "0.5", "--protect", "feature.0,feature.[48]", "--protect", "feature.25"),
            {"params": 0.5, "protect": ["feature.0", "feature.[48]", "feature.25"]},
        ),
        (("--keep", "feature.0=0,2,feature.4=1"), {"keep": {"feature.0": [0, 2], "feature.4": [1]}}),
    ],
)
def test_what_is_typed_is_what_python_takes(typed, words, run, keep, tmp_path):
    outcome = run("prune", *MODEL, *typed, "--no-check", "--save", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    plan, expected = saved(tmp_path / "out"), keep(**words, check=False)
    assert plan.keep == expected.keep
    assert plan.requested == expected.requested


def test_floors_by_group_come_from_a_file_too(run, keep, tmp_path):
    asked = {"macs": 0.5, "channels": {"feature.0": 0.25}, "min_keep": {"feature.2?": 0.75}}
    (tmp_path / "o.yaml").write_text(yaml.safe_dump({**asked, "keep": {}, "check": False}))
    outcome = run("prune", *MODEL, "--config", tmp_path / "o.yaml", "--save", tmp_path / "one")
    assert outcome.code == 0, outcome.err
    assert saved(tmp_path / "one").keep == keep(**asked, check=False).keep
    assert run("rerun", tmp_path / "one", "--save", tmp_path / "two").code == 0
    assert saved(tmp_path / "two").groups == saved(tmp_path / "one").groups


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keep", "feature.0"), "--keep is 'feature.0'\n  write it as pattern=indices"),
        (("--keep", "feature.0=a,b"), "--keep is 'feature.0=a,b'\n  write indices with commas"),
        (("--keep", "feature.0=0.5"), "keep['feature.0'] holds 0.5"),
        (("--ratio", "0.5", "--min-keep", "=0.5"), "--min-keep is '=0.5'"),
        (("--ratio", "0.5", "--min-keep", "feature.0=2"), "min_keep['feature.0'] is 2"),
        (("--ratio", "0.5", "--min-keep", "0.2,feature.0=0.5"), "--min-keep is '0.2'"),
        (("--ratio", "0.5", "--channels", "feature.0=0.5", "--macs", "0.5"), "3 budgets were given"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(words, message, refuse, tmp_path):
    assert message in refuse(2, "prune", *MODEL, *words, "--save", tmp_path / "out")


def test_a_word_that_was_not_given_is_left_to_its_default():
    assert read_words({"ratio": None, "protect": (), "min_keep": 0.1}) == {"min_keep": 0.1}
