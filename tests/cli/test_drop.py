"""`secateur drop`: the command, its folder, and what can be done with it."""

import pytest
import torch

import secateur as sc
from secateur.sources import open_model
from secateur.write.checkpoint import save_model

FACTORY = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return x + self.outer(self.inner(x).relu())


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Block(), Block(), nn.Flatten(), nn.Linear(4 * 36, 5))
"""
INPUT = ("--input", "1,3,8,8")


@pytest.fixture
def word(tmp_path):
    (tmp_path / "shop.py").write_text(FACTORY)
    return f"{tmp_path / 'shop.py'}:net"


def test_a_model_is_dropped_checked_pruned_and_loaded(word, run, tmp_path):
    outcome = run("drop", word, "--count", 2, *INPUT, "--save", tmp_path / "shallow", "--json")
    assert outcome.code == 0, outcome.err
    numbers = outcome.json
    assert len(numbers["dropped"]) == 2
    assert set(numbers["scores"]) == {"1", "2", "3"}
    assert numbers["verdict"] == "exact"
    assert numbers["after"]["params"] < numbers["before"]["params"]

    found = run("check", word, tmp_path / "shallow", *INPUT)
    assert (found.code, found.out[:6]) == (0, "exact:")
    shallow = f"{tmp_path}/shallow@{word}"
    outcome = run("prune", shallow, "--ratio", 0.3, *INPUT, "--save", tmp_path / "both")
    assert outcome.code == 0, outcome.err
    assert run("check", shallow, tmp_path / "both", *INPUT).code == 0
    plan = sc.Plan.from_json((tmp_path / "both" / "plan.json").read_bytes())
    assert plan.previous.dropped == tuple(numbers["dropped"])
    assert plan.previous.command.startswith("secateur drop ")
    outcome = run("inspect", f"{tmp_path}/both@{word}", *INPUT, "--json")
    assert outcome.code == 0, outcome.err


def test_text_names_the_blocks(word, run, tmp_path):
    outcome = run("drop", word, "--blocks", "2", *INPUT, "--save", tmp_path / "shallow")
    assert outcome.code == 0, outcome.err
    assert "dropped 1 of 1 blocks of Sequential" in outcome.out
    assert "2: 442 parameters, score" in outcome.out


def test_a_damaged_plan_fails_the_check(word, run, tmp_path):
    assert run("drop", word, "--blocks", "2", *INPUT, "--save", tmp_path / "shallow").code == 0
    plan = sc.Plan.from_json((tmp_path / "shallow" / "plan.json").read_bytes())
    model = open_model(word).model
    assert isinstance(sc.load(tmp_path / "shallow", model)[2], torch.nn.Identity)
    wrong = plan.model_copy(update={"dropped": ("4",)})
    save_model(wrong.apply(model), wrong, tmp_path / "wrong")
    outcome = run("check", word, tmp_path / "wrong", *INPUT)
    assert outcome.code == 1
    assert "4 cannot be dropped: no such block" in outcome.out


def test_bad_requests_are_refused_in_words(word, refuse, tmp_path):
    message = refuse(2, "drop", word, *INPUT, "--save", tmp_path / "x")
    assert message.startswith("neither count nor ratio nor blocks was given")
    message = refuse(2, "drop", "zoo:vgg11", "--count", 1, "--save", tmp_path / "x")
    assert message.startswith("no block can be dropped")
