"""Several models in turn: who is compared with whom, what cannot run, and what wastes time."""

import json
import sys

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.benching import Bench, Contender, bench, programs
from secateur.benching.files import inputs_of_file
from secateur.benching.operators import growing, operator_times
from secateur.costs import Latency
from secateur.errors import RequestError

X = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))


class Slow(nn.Module):
    """A convolution that shrinks and a sort that does not."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        noise = torch.sort(x.repeat(1, 6, 1, 1).flatten()).values[:1]
        return self.head(self.conv(x).relu()) + noise


def contender(name, folder, model, inputs=X):
    place = folder / name
    place.mkdir()
    return Contender(name, inputs, place, model=model)


@pytest.fixture
def pair(tmp_path):
    torch.manual_seed(0)
    return [contender(name, tmp_path, Slow(width).train()) for name, width in (("large", 64), ("small", 8))]


def latency(median):
    return Latency(median, median, median, 5, 1, 1, "cpu")


def test_the_others_are_compared_with_the_first(pair):
    found = bench(pair, repeats=6)
    assert found.names == ("large", "small")
    assert found.ideal(1) == pytest.approx(8 / 64, rel=0.01)
    assert [one.repeats for one in found.times["pytorch"]] == [10, 10]
    assert found.ratio("pytorch", 0) == 1
    assert found.macs == tuple(sc.measure(one.model, X).macs for one in pair)
    assert all(one.model.training for one in pair), "the models are as they were"


def test_the_operators_that_do_not_shrink_are_named(pair):
    assert "sort" in {one.operator for one in bench(pair, repeats=3).operators[0]}
    times = operator_times(pair[0], 1)
    assert {"conv2d", "sort", "relu"} <= set(times)
    assert min(times.values()) >= 0


def test_what_shrinks_as_it_should_is_not_named():
    assert growing({"conv": 80.0, "norm": 20.0}, {"conv": 40.0, "norm": 10.0}, ideal=0.5) == []
    (found,) = growing({"conv": 80.0, "norm": 20.0}, {"conv": 40.0, "norm": 20.0}, ideal=0.5)
    assert (found.operator, found.before, found.left) == ("norm", 0.2, 1.0)
    assert growing({"conv": 80.0, "norm": 20.0}, {"conv": 40.0, "norm": 10.0}, ideal=0.2) == [], "all alike"
    (new,) = growing({"conv": 80.0}, {"conv": 40.0, "pad": 10.0}, ideal=0.5)
    assert (new.operator, new.before, new.left) == ("pad", 0.0, float("inf"))


def test_the_distance_from_the_ideal_is_said():
    times = {"pytorch": (latency(8.0), latency(3.0)), "compile": (latency(4.0), "no compiler")}
    found = Bench(("a", "b"), (100, 25), times, ((),))
    row = found.to_dict()["models"][1]
    assert row["programs"]["pytorch"]["times_ideal"] == 1.5
    assert row["programs"]["compile"] == {"reason": "no compiler"}
    assert "b takes so many times the ideal: 1.50 in pytorch" in str(found)
    assert "no compiler" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["models"][0]["name"] == "a"


def test_models_take_turns_and_each_round_begins_with_another(tmp_path, monkeypatch):
    calls = []

    def start(contender, threads):
        def turn(passes):
            calls.append(contender.name)
            return [1.0] * passes

        return turn

    monkeypatch.setitem(programs._entries, "told", start)
    names = ["a", "b", "c"]
    bench(
        [contender(name, tmp_path, nn.Linear(2, 2), torch.zeros(1, 2)) for name in names], ["told"], repeats=5
    )
    assert calls[-15:] == [*"abc", *"bca", *"cab", *"abc", *"bca"]


def test_a_program_that_cannot_run_a_model_is_a_cell_with_the_reason(pair, monkeypatch):
    def broken(contender, threads):
        if contender.name == "small":
            raise ValueError("too small\nfor this")
        return lambda passes: [1.0] * passes

    monkeypatch.setitem(programs._entries, "broken", broken)
    found = bench(pair, ["broken"], repeats=3)
    assert found.times["broken"][1] == "ValueError: too small"
    assert found.ratio("broken", 1) is None


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_package_is_a_cell_with_the_reason(pair, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    found = bench(pair[:1], [name], repeats=3)
    assert f"timings in {'ONNX Runtime' if name == 'onnxruntime' else 'OpenVINO'} need {name}" in str(
        found.times[name][0]
    )


def test_onnxruntime_times_what_the_model_computes(tmp_path):
    one = contender("conv", tmp_path, nn.Conv2d(3, 8, 3))
    (cell,) = bench([one], ["onnxruntime"], repeats=3).times["onnxruntime"]
    assert isinstance(cell, Latency), cell
    assert one.onnx.is_file()
    as_file = Contender("file", X, tmp_path, file=one.onnx)
    found = bench([one, as_file], ["pytorch", "onnxruntime"], repeats=3)
    assert found.times["pytorch"][1] == "a file, no module"
    assert found.ratio("onnxruntime", 1) is not None
    assert found.ideal(1) is None
    wrong = Contender("wrong", (X, X), tmp_path, file=one.onnx)
    assert "takes 1 inputs, the example has 2" in str(bench([wrong], ["onnxruntime"]).times["onnxruntime"][0])


def test_openvino_times_a_file(tmp_path):
    pytest.importorskip("openvino")
    (cell,) = bench([contender("conv", tmp_path, nn.Conv2d(3, 8, 3))], ["openvino"], repeats=3).times[
        "openvino"
    ]
    assert isinstance(cell, Latency), cell


@pytest.mark.slow
def test_compile_times_a_module(pair):
    assert isinstance(bench(pair[:1], ["compile"], repeats=3).times["compile"][0], Latency)


@pytest.mark.parametrize("wrong", [{"repeats": 2}, {"threads": 0}])
def test_numbers_that_make_no_sense_are_refused(pair, wrong):
    with pytest.raises(RequestError, match="3 or more repeats"):
        bench(pair, **wrong)


def test_an_unknown_program_gets_a_suggestion(pair):
    with pytest.raises(RequestError, match="did you mean 'onnxruntime'"):
        bench(pair, ["onnx-runtime"])


def test_a_file_says_its_sizes_or_is_asked_with_the_inputs(tmp_path):
    sc.export(nn.Conv2d(3, 8, 3), tmp_path / "fixed.onnx", example_inputs=X, dynamic=False)
    (found,) = inputs_of_file(tmp_path / "fixed.onnx", batch=4)
    assert (found.shape, found.dtype) == (X.shape, torch.float32)
    sc.export(nn.Conv2d(3, 8, 3), tmp_path / "open.onnx", example_inputs=X)
    with pytest.raises(RequestError, match="does not say what its input input is"):
        inputs_of_file(tmp_path / "open.onnx", batch=4)
    sc.export(nn.Linear(3, 8), tmp_path / "batch.onnx", example_inputs=torch.zeros(2, 3))
    assert inputs_of_file(tmp_path / "batch.onnx", batch=4)[0].shape == (4, 3)
