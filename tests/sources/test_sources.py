import sys

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError, RequestError
from secateur.sources import build, open_model, sources
from secateur.write.checkpoint import save_model

NETS = """
from dataclasses import dataclass
from torch import nn
import neighbour

@dataclass
class Shape:
    width: int = 8

class Net(nn.Module):
    def __init__(self, width=8, deep=False, name="net"):
        super().__init__()
        self.first, self.last = nn.Linear(4, Shape(width).width), nn.Linear(width, neighbour.CLASSES)
        self.deep, self.name = deep, name

    def forward(self, x):
        return self.last(self.first(x).relu())

def make(**options):
    return Net(**options)

model = Net
broken = 3
"""


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "neighbour.py").write_text("CLASSES = 3\n")
    (tmp_path / "types.py").write_text(NETS)  # called like a module of the standard library
    yield tmp_path / "types.py"
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize(
    ("word", "arguments", "kind", "shape"),
    [
        ("zoo:vgg11", {"width": 0.0625}, "VGG", (1, 3, 32, 32)),
        ("zoo:vgg11", {"width": 0.0625, "in_channels": 1, "image_size": 8}, "VGG", (1, 1, 8, 8)),
        ("torchvision:shufflenet_v2_x0_5", {"num_classes": 3}, "ShuffleNetV2", (1, 3, 224, 224)),
    ],
)
def test_a_word_builds_its_model_and_knows_the_input(word, arguments, kind, shape):
    built = build(word, arguments)
    assert type(built.model).__name__ == kind
    assert built.input_shape == shape


def test_a_file_builds_with_arguments_neighbours_and_a_name_of_the_standard_library(nets):
    before, path = sys.modules["types"], list(sys.path)
    built = build(f"{nets}:make", {"width": 6, "deep": True, "name": "x"})
    assert (built.model.first.out_features, built.model.deep, built.model.name) == (6, True, "x")
    assert built.input_shape is None
    assert sys.modules["types"] is before
    assert sys.path == path
    assert type(build(str(nets), {}).model).__name__ == "Net"


def test_the_argument_of_a_saved_folder_is_its_own_and_may_be_added_to(nets, tmp_path):
    opened = open_model(f"{nets}:make", {"width": 6})
    folder = save_model(opened.model, opened.plan, tmp_path / "saved")
    again = open_model(f"{folder}@{nets}:make", {"deep": True})
    assert again.model.first.out_features == 6
    assert again.model.deep is True
    assert torch.equal(again.model.first.weight, opened.model.first.weight)
    assert again.plan == opened.plan


def test_a_file_that_moved_away_is_named(nets, tmp_path):
    opened = open_model(f"{nets}:make", {})
    folder = save_model(opened.model, opened.plan, tmp_path / "saved")
    nets.unlink()
    with pytest.raises(CheckpointError, match=r"its architecture .*:make cannot be built(.|\n)*no such file"):
        open_model(f"{folder}@{nets}:make")


def test_a_saved_folder_made_in_python_says_how_to_load_it(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    sc.save(sc.prune(net, torch.zeros(1, 4), ratio=0.5), tmp_path / "half")
    with pytest.raises(CheckpointError, match="does not say what builds Sequential"):
        open_model(str(tmp_path / "half"))


def test_a_saved_folder_made_in_python_opens_with_the_file_that_builds_it(nets, tmp_path):
    net = build(f"{nets}:make", {}).model
    result = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
    sc.save(result, tmp_path / "half")
    opened = open_model(f"{tmp_path}/half@{nets}:make")
    assert torch.equal(opened.model.first.weight, result.model.first.weight)
    assert opened.source == f"{nets}:make"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("types.py:broken", "has no factory 'broken'"),
        ("types.py:nothing", r"it has: .*make.*model"),
        ("gone.py:make", "no such file"),
        ("error.py:make", "does not run: ZeroDivisionError"),
        ("syntax.py:make", "does not run: SyntaxError"),
        ("leaves.py:make", "does not run: SystemExit"),
    ],
)
def test_a_file_that_does_not_serve_is_explained(nets, word, message):
    (nets.parent / "error.py").write_text("1 / 0")
    (nets.parent / "syntax.py").write_text("def f(:")
    (nets.parent / "leaves.py").write_text("raise SystemExit")
    before = set(sys.modules)
    with pytest.raises(RequestError, match=message):
        build(str(nets.parent / word), {})
    assert not {
        name for name in set(sys.modules) - before if "secateur_source_" in name and "types" not in name
    }


def test_arguments_that_do_not_fit_are_shown(nets):
    with pytest.raises(RequestError, match=r"unexpected keyword argument 'w'(.|\n)*arguments: {'w': 1}"):
        build(f"{nets}:make", {"w": 1})
    with pytest.raises(RequestError, match="cannot build zoo:vgg11"):
        build("zoo:vgg11", {"width": "wide"})


@pytest.mark.parametrize(("kind", "package"), [("timm", "timm"), ("hf", "transformers")])
def test_an_absent_package_says_what_to_install(monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RequestError, match=rf"package {package} is not installed\n  pip install {package}"):
        build(f"{kind}:anything", {})


def test_hf_asks_for_a_config(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", object())
    with pytest.raises(RequestError, match=r"holds no config\.json"):
        build(f"hf:{tmp_path}", {})


def test_every_source_is_registered():
    assert set(sources) == {"hf", "timm", "torchvision", "ultralytics", "zoo"}
