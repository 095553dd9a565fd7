import json
from dataclasses import dataclass

import pytest
import torch
from darknet_nets import conv, net, randomise

from secateur.domains.darknet import Darknet
from secateur.domains.darknet.sweep import PercentRow, Sweep, sweep
from secateur.errors import CheckpointError, RequestError

FAST = {"absorb": False, "check": False}


@pytest.fixture
def model():
    return randomise(Darknet(net(conv(16), conv(16), conv(16))))


class Scorer:
    """A score that falls by a cliff when less than half of the channels are left; counts its calls."""

    def __init__(self, stop_after=None):
        self.seen = []
        self.stop_after = stop_after

    def __call__(self, model):
        if self.stop_after == len(self.seen):
            raise KeyboardInterrupt
        left = sum(model.layers[index].conv.out_channels for index in range(3)) / 48
        self.seen.append(left)
        return 0.9 if left > 0.5 else 0.9 * left


def test_the_cliff_lies_between_what_holds_and_what_does_not(model):
    scorer = Scorer()
    found = sweep(model, scorer, "normal", [0.6, 0.2, 0.4], **FAST)
    assert [row.percent for row in found.rows] == [0, 0.2, 0.4, 0.6]
    assert (found.cliff[0].percent, found.cliff[1].percent) == (0.4, 0.6)
    assert "the cliff is between 40 % and 60 %: 0.900 to" in found.sentence
    assert found.sentence in str(found)
    params = [row.params for row in found.rows]
    assert params == sorted(params, reverse=True)
    assert len(set(params)) == 4
    assert 0.8 < found.rows[0].limit < 1


def test_refining_halves_the_gap(model):
    scorer = Scorer()
    found = sweep(model, scorer, "normal", [0.2, 0.9], refine=3, **FAST)
    before, after = found.cliff
    assert after.percent - before.percent == pytest.approx(0.7 / 8, abs=1e-3)
    assert before.percent <= 0.5 <= after.percent
    assert len(scorer.seen) == 6


def test_nothing_falls(model):
    found = sweep(model, lambda _: 0.5, percents=[0.3], **FAST)
    assert found.cliff is None
    assert found.sentence == "normal has no cliff up to 30 % (0.500 of 0.500)"


@dataclass
class Both:
    map50: float = 0.8
    map: float = 0.4


def test_an_evaluation_gives_both_figures(model):
    found = sweep(model, lambda _: Both(), percents=[0.3], **FAST)
    assert {(row.score, row.map) for row in found.rows} == {(0.8, 0.4)}


def test_a_stopped_sweep_goes_on_where_it_was(model, tmp_path):
    path = tmp_path / "rows.jsonl"
    scorer = Scorer(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, scorer, percents=[0.2, 0.4, 0.6], rows=path, **FAST)
    with path.open("a") as file:
        file.write('{"percent": 0.4, "sco')  # killed in the middle of a line
    again, told = Scorer(), []
    found = sweep(model, again, percents=[0.2, 0.4, 0.6], rows=path, on_row=told.append, **FAST)
    assert len(again.seen) == 2
    assert [row.percent for row in told] == [0.4, 0.6]
    assert found == sweep(model, Scorer(), percents=[0.2, 0.4, 0.6], **FAST)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["percent"] for line in lines[1:]] == [0, 0.2, 0.4, 0.6]


def test_rows_of_another_sweep_are_refused(model, tmp_path):
    path = tmp_path / "rows.jsonl"
    sweep(model, Scorer(), percents=[0.2], rows=path, **FAST)
    with pytest.raises(CheckpointError, match="strategy: normal there, slim here"):
        sweep(model, Scorer(), "slim", percents=[0.2], rows=path, **FAST)
    with pytest.raises(CheckpointError, match="options"):
        sweep(model, Scorer(), percents=[0.2], rows=path, **FAST, floor=0.2)
    with torch.no_grad():
        model.layers[0].conv.weight[0, 0, 0, 0] += 1
    with pytest.raises(CheckpointError, match="fingerprint"):
        sweep(model, Scorer(), percents=[0.2], rows=path, **FAST)
    path.write_text("no json\n")
    with pytest.raises(CheckpointError, match="holds no rows of a sweep"):
        sweep(model, Scorer(), percents=[0.2], rows=path, **FAST)


@pytest.mark.parametrize("name", ["curve.png", "curve.svg"])
def test_the_picture_is_drawn(tmp_path, name):
    rows = [PercentRow(p, s, None, n, n, 0.8) for p, s, n in ((0, 0.9, 100), (0.3, 0.88, 60), (0.6, 0.2, 30))]
    path = Sweep("net.cfg", "slim", tuple(rows)).plot(tmp_path / name)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if name.endswith("png") else b"<svg" in content
    Sweep("net.cfg", "slim", tuple(rows)).plot(path)
    assert path.read_bytes() == content


def test_cliff_and_limit_are_marked_in_the_picture():
    marked = []
    for limit, last in ((None, 0.89), (0.8, 0.2)):
        rows = [PercentRow(p, s, None, 100, 100, limit) for p, s in ((0, 0.9), (0.3, 0.88), (0.6, last))]
        bands = Sweep("net.cfg", "slim", tuple(rows)).chart().bands
        marked.append([(band.name, pytest.approx(band.start), pytest.approx(band.end)) for band in bands])
    assert marked == [[], [("percent limit", 80, 80), ("cliff", 30, 60)]]


def test_requests_that_make_no_sense_are_refused(model, tmp_path):
    with pytest.raises(RequestError, match="0 percents"):
        sweep(model, Scorer(), percents=[])
    with pytest.raises(RequestError, match="allowed: 0 <= percent < 1"):
        sweep(model, Scorer(), percents=[1.5], **FAST)
    with pytest.raises(RequestError, match=r"name a \.png or \.svg"):
        Sweep("net.cfg", "slim", (PercentRow(0, 1, None, 1, 1),)).plot(tmp_path / "curve.pdf")


def test_two_sweeps_in_one_file_at_a_time_are_refused_and_the_first_goes_on(model, tmp_path):
    path, refused = tmp_path / "rows.jsonl", []

    def again(row):
        with pytest.raises(RequestError, match="is being written by another sweep") as caught:
            sweep(model, Scorer(), percents=[0.2], rows=path, **FAST)
        refused.append(caught)

    found = sweep(model, Scorer(), percents=[0.2], rows=path, on_row=again, **FAST)
    assert len(refused) == len(found.rows) == 2
    assert len(path.read_text().splitlines()) == 3
    assert sweep(model, Scorer(), percents=[0.2], rows=path, **FAST).rows == found.rows
