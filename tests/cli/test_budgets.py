"""`secateur prune` with budgets of bytes, memory and milliseconds, and the reasons for each width."""

import json

import pytest

MODEL = ("zoo:vgg11", "--arg", "width=0.0625", "--arg", "in_channels=1", "--arg", "image_size=8")


@pytest.mark.parametrize(
    ("words", "kind", "whole"),
    [
        (("--size-bytes", "50%"), "size_bytes", "size_bytes"),
        (("--size-bytes", "100kB"), "size_bytes", "size_bytes"),
        (("--memory", "0.6"), "memory", "memory_bytes"),
    ],
)
def test_a_budget_of_bytes_is_met(words, kind, whole, run, tmp_path):
    outcome = run("prune", *MODEL, *words, "--save", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    account = outcome.json["account"]
    assert account["kind"] == kind
    assert outcome.json["after"][whole] == account["reached"]
    assert 0.98 < account["reached"] / account["wanted"] <= 1
    assert account["whole"] == outcome.json["before"][whole]


@pytest.mark.slow
def test_a_budget_of_milliseconds_says_what_was_measured(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wide = ("zoo:vgg11", "--arg", "width=0.25", "--input", "8,3,32,32")
    words = ("--latency-ms", "80%", "--no-check", "--explain", "--save", tmp_path / "out")
    outcome = run("prune", *wide, *words)
    assert outcome.code == 0, outcome.err
    assert "asked latency_ms=80%" in outcome.out
    assert "measured" in outcome.out
    assert "next step saves (ms)" in outcome.out
    assert len(list((tmp_path / "cache" / "secateur" / "latency").iterdir())) == 1


def test_every_group_says_why(run, tmp_path):
    words = ("--macs", 0.5, "--explain", "--save", tmp_path / "out")
    outcome = run("prune", *MODEL, *words)
    assert outcome.code == 0, outcome.err
    assert "why these widths: macs=0.5" in outcome.out
    assert "left alone classifier: model output" in outcome.out
    outcome = run("prune", *MODEL, *words, "--json")
    saved = json.loads((tmp_path / "out" / "plan.json").read_text())
    found = outcome.json["explanation"]["groups"]
    assert [group["name"] for group in found if group["kept"]] == [group["name"] for group in saved["groups"]]
    assert all(
        group["lowest_kept"] == held["why"]["lowest_kept"]
        for group, held in zip(found, saved["groups"], strict=False)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size-bytes", "apple"), "size_bytes is 'apple'"),
        (("--memory", "-5"), "memory is -5"),
        (("--memory", "0"), "memory is 0"),
        (("--size-bytes", "1TB"), "size_bytes budget is 1,000,000,000,000, the uncut model has"),
        (("--size-bytes", "100"), "size_bytes=100 allows 100, the smallest reachable is"),
        (("--latency-ms", "fast"), "latency_ms is 'fast'"),
        (("--latency-ms", "1e9"), "latency_ms budget is 1e+09, the uncut model has"),
        (("--memory", "0.5", "--macs", "0.5"), "2 budgets were given: macs, memory"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, refuse, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert message in refuse(2, "prune", *MODEL, *words, "--save", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_milliseconds_that_no_width_reaches_are_refused_with_what_can_be_had(refuse, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("--latency-ms", 0.0001, "--no-check", "--save", tmp_path / "out")
    assert "latency_ms=0.0001 allows 0.0001, the smallest reachable is 0." in refuse(
        2, "prune", *MODEL, *words
    )
    assert not (tmp_path / "out").exists()
