"""A budget of milliseconds: the table that is kept, the line through what was timed, when a cut will do."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import timing
from secateur.costs import Latency, layers
from secateur.errors import RequestError
from secateur.timing import Timing, Tries, cache_folder, machine_of

X = torch.zeros(4, 3, 16, 16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 5),
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def clock(monkeypatch):
    """A machine that takes a millisecond for so many MACs, and one more for each model."""

    def ms(model):
        return 1 + sc.measure(model, X).macs / 1e6

    def in_turn(models, inputs, **_):
        return [Latency(ms(model), ms(model), ms(model), 3, 1, 4, "cpu") for model in models]

    def work(held, models):
        return [ms(model) / 2 for model in models]  # the machine is busy with other programs, too

    def of_call(call, device, **_):
        found = call.args.get("weight")
        return 1e-6 if found is None else found.shape[0] * found.shape[-1] / 1e3

    monkeypatch.setattr(timing, "latency_in_turn", in_turn)
    monkeypatch.setattr(Timing, "_work", work)
    monkeypatch.setattr(layers, "_time", of_call)
    return ms


def test_the_measured_time_meets_the_target_although_the_prediction_is_off(clock):
    whole = clock(network())
    result = sc.prune(network(), X, latency_ms=0.6 * whole)
    account = result.plan.account
    assert account.measured == pytest.approx(clock(result.model))
    assert 0.95 * 0.6 * whole <= account.measured <= 1.02 * 0.6 * whole
    assert account.whole == whole
    assert result.verdict.exact
    (note,) = account.notes
    assert note.startswith("predicted")
    assert f"measured {account.measured:.4g} ms" in str(result)


def test_a_share_is_written_as_a_text_and_a_number_is_milliseconds(clock):
    whole = clock(network())
    share = sc.prune(network(), X, latency_ms="60%").plan
    assert share.account.wanted == pytest.approx(0.6 * whole)
    assert sc.plan(network(), X, latency_ms=f"{0.6 * whole} ms").keep == share.keep
    assert str(share.requested) == "latency_ms=60%"


def test_a_target_below_the_smallest_model_is_refused_with_what_that_was_measured_to_take(clock):
    floor = sc.prune(network(), X, channels={"*": 0.99}, min_keep=0.5)
    least = clock(floor.model)
    with pytest.raises(RequestError) as refused:
        sc.prune(network(), X, latency_ms=0.5, min_keep=0.5)
    assert str(refused.value).startswith(
        f"latency_ms=0.5 allows 0.5, the smallest reachable is {least:.4g}\n"
    )


def test_a_target_above_the_uncut_model_is_refused(clock):
    with pytest.raises(RequestError, match=r"latency_ms budget is 1000, the uncut model has [\d.]+"):
        sc.prune(network(), X, latency_ms=1000)


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        empty = network()
    with pytest.raises(RequestError, match="latency_ms times the model, but it is on the meta device"):
        sc.plan(empty, X, latency_ms=1.0, criterion="random")


def test_the_table_is_kept_and_asked_the_next_time(tmp_path):
    groups = sc.couple(network(), X)
    first = Timing(network(), X)
    first.gauge(groups)
    (kept,) = (tmp_path / "secateur" / "latency").iterdir()
    held = json.loads(kept.read_text())
    assert held["machine"] == machine_of(torch.device("cpu"))
    assert first._table.measured == len(held["ms"]) > 0
    second = Timing(network(), X)
    second.gauge(groups)
    assert second._table.measured == 0


def test_what_another_run_has_written_meanwhile_stays(tmp_path):
    groups = sc.couple(network(), X)
    one, two = Timing(network(), X), Timing(network(), X)
    two.gauge(groups)
    (kept,) = (tmp_path / "secateur" / "latency").iterdir()
    held = json.loads(kept.read_text())
    kept.write_text(json.dumps({**held, "ms": {"another call": 1.0}}))
    one.gauge(groups)
    assert json.loads(kept.read_text())["ms"].keys() == {"another call", *held["ms"]}


def test_a_damaged_table_is_measured_anew(tmp_path):
    groups = sc.couple(network(), X)
    Timing(network(), X).gauge(groups)
    (kept,) = (tmp_path / "secateur" / "latency").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    Timing(network(), X).gauge(groups)
    assert json.loads(kept.read_text())["ms"]


def test_a_table_that_cannot_be_kept_is_a_note_and_no_failure(tmp_path):
    (tmp_path / "secateur").write_text("in the way")
    plan = sc.plan(network(), X, latency_ms="80%")
    assert any("was not kept" in note for note in plan.account.notes)


def test_the_cache_follows_the_standard(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "secateur" / "latency"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_folder()) == "/home/someone/.cache/secateur/latency"


def test_predictions_run_through_what_was_measured(clock):
    model = network()
    groups = sc.couple(model, X)
    held = Timing(model, X)
    gauge = held.gauge(groups)
    assert gauge.meter.at({}) == pytest.approx(clock(model))
    cut = sc.prune(model, X, ratio=0.5, scope="local")
    kept = {groups[name].axis: len(indices) for name, indices in cut.plan.keep.items()}
    held.measure(cut.model, gauge.meter.at(kept), clock(cut.model))
    again = held.gauge(groups)
    assert again.meter.at({}) == pytest.approx(clock(model))
    assert again.meter.at(kept) == pytest.approx(clock(cut.model))


def test_a_share_stays_a_share_of_what_was_measured_however_the_prediction_is_mended(clock, monkeypatch):
    """After a cut was timed the line through two cuts need not pass through the uncut model."""
    wanted = []
    add = Tries.add

    def watched(tries, groups, attempt):
        wanted.append(attempt.plan.account.wanted)
        return add(tries, groups, attempt)

    monkeypatch.setattr(Tries, "add", watched)
    monkeypatch.setattr(timing, "_OVER", 1.0 + 1e-9)
    monkeypatch.setattr(timing, "_UNDER", 1.0 - 1e-9)
    sc.plan(network(), X, latency_ms="60%")
    assert len(wanted) > 1
    assert wanted == pytest.approx([0.6 * clock(network())] * len(wanted))


def test_threads_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Timing(network(), X).gauge(sc.couple(network(), X))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds", "shown"), [(1.0, False), (3.0, True)])
def test_a_bar_is_shown_after_two_seconds(monkeypatch, seconds, shown):
    now = iter([0.0, seconds, seconds, seconds])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    bar = timing._Bar()
    with bar:
        bar.advance("aten.conv2d")
        assert (bar._progress is not None) == shown
    assert bar._progress is None


@pytest.mark.slow
def test_on_this_machine_the_plan_is_faster():
    model = network()
    x = torch.zeros(16, 3, 48, 48)
    result = sc.prune(model, x, latency_ms="60%")
    account = result.plan.account
    assert account.measured < 0.95 * account.whole  # a busy machine leaves no sharper law
    assert result.verdict.exact
