"""Wrong cuts are planted in a dozen networks: the proof sees each, or no output can show it.

A small part of `benchmarks/faults.py`, whose whole is on docs/proof.md.
"""

import copy
import json
from functools import cache, partial

import pytest
import torch
from faults_runs import planted
from faults_runs.kinds import KINDS, Fault, tensors_of, wrong_cuts
from faults_runs.networks import ROOT, all_networks
from faults_runs.page import write_page
from faults_runs.planted import ask, cut_rightly, plant, run_network
from faults_runs.reasons import UNEXPLAINED
from faults_runs.truth import compare, depends_on, difference

from secateur.proof import Verdict

NAMES = (
    "hidden:sentinels",
    "hidden:an output that is nan",
    "hidden:a relu that is off",
    "micro:attention",
    "micro:attention-scale-from-size (widths)",
    "micro:multihead-attention",
    "micro:fused-qkv-chunk",
    "micro:lstm",
    "micro:batch-norm",
    "micro:flatten-of-maps",
    "micro:experts-by-top-k",
    "rule:aten.group_norm",
    "rule:aten.einsum",
)


@cache
def networks():
    return {network.name: network for network in all_networks() if network.name in NAMES}


@cache
def trial(name):
    return run_network(networks()[name], list(KINDS), 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_planted_fault_is_seen_or_shown_by_no_output(name):
    found = trial(name)
    assert found.right, found.refused
    assert sum(found.planted.values()) >= 5
    assert found.unseen == []
    assert UNEXPLAINED not in found.shown_by_none


def test_each_kind_of_fault_is_planted_somewhere():
    assert {kind for name in NAMES for kind in trial(name).planted} == set(KINDS)


@cache
def attention():
    right, inputs, _ = cut_rightly(networks()["micro:attention"])
    return right, inputs


def faults(kind, tensor):
    right, _ = attention()
    return [fault for fault in wrong_cuts(right, kind, "a name") if fault.tensor == tensor]


def test_a_planted_plan_cuts_every_model_wrongly_at_one_tensor_alone():
    right, _ = attention()
    (fault,) = faults("swap", "v.weight")
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = copy.deepcopy(right.model)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        correct, wrong = (tensors_of(plan.apply(model)) for plan in (right.plan, plant(right.plan, fault)))
        assert [name for name in correct if not torch.equal(correct[name], wrong[name])] == ["v.weight"]
        assert sorted(correct["v.weight"].flatten().tolist()) == sorted(wrong["v.weight"].flatten().tolist())


def test_a_blind_proof_is_found_out(monkeypatch):
    monkeypatch.setattr(planted, "verify", lambda *_, **__: Verdict(0.0, 1e-9))
    found = run_network(networks()["micro:flatten-of-maps"], ["swap", "other"], 2)
    assert not found.seen
    assert len(found.unseen) == sum(found.planted.values()) == 4
    assert all(fault["true_error"] > 1e-3 for fault in found.unseen)
    found = run_network(networks()["micro:attention"], ["together"], 2)
    assert set(found.shown_by_none) == {"names"}


def test_a_proof_that_refuses_everything_is_found_out(monkeypatch):
    monkeypatch.setattr(planted, "verify", lambda *_, **__: Verdict(1.0, 1e-9, failure="no"))
    found = run_network(networks()["micro:flatten-of-maps"], ["swap"], 2)
    assert found.refused == "the proof refuses the right cut: failed: no"
    assert not found.planted


def test_an_error_of_the_proof_is_no_pass(monkeypatch):
    def fail(*_, **__):
        raise ValueError("broken")

    right, inputs = attention()
    monkeypatch.setattr(planted, "verify", fail)
    assert ask(right, right.plan, inputs) == (False, "ValueError: broken")


def test_a_key_bias_is_shown_by_no_output_and_a_value_bias_is():
    right, inputs = attention()
    keys, values = faults("swap", "k.bias")[0], faults("swap", "v.bias")[0]
    assert not compare(right, keys, inputs).is_visible
    assert not depends_on(right, keys, inputs)
    assert compare(right, values, inputs).error > 1e-3
    assert depends_on(right, values, inputs)


def test_a_cut_without_a_fault_is_equal_in_every_draw():
    right, inputs = attention()
    found = compare(right, Fault("none", "", "", lambda _, cut: cut), inputs)
    assert found.error == 0
    assert found.draws == 12
    assert not found.is_visible


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x, 0.0),
        (lambda x: x + torch.tensor([0, 0.5, 0]), 0.5),
        (lambda x: x * torch.tensor([1, 1, torch.nan]), float("inf")),
        (lambda x: x[:2], float("inf")),
        (lambda x: x > 0, float("inf")),
    ],
)
def test_a_huge_number_hides_no_difference(change, expected):
    x = torch.tensor([1.0, 1.0, 1e9])
    assert difference([x], [change(x)]) == expected
    assert difference([x, x], [x]) == float("inf")


def test_a_fault_of_a_name_and_a_kind_is_always_the_same():
    right, _ = attention()
    draw = partial(wrong_cuts, right, "swap")
    assert [(one.where, one.what) for one in draw("a")] == [(two.where, two.what) for two in draw("a")]
    assert [one.where for one in draw("a")] != [two.where for two in draw("b")]


def test_the_page_holds_what_the_results_say():
    results = json.loads((ROOT / "benchmarks/results/faults.json").read_text())
    page = (ROOT / "docs/proof.md").read_text()
    assert write_page(page, results) == page
    with pytest.raises(ValueError, match="needs the lines"):
        write_page("no marks", results)
