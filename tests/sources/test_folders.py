"""Folders that are loaded alone, because their plan names what builds the architecture."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError, RequestError, SourceError
from secateur.zoo import models

X = torch.zeros(1, 1, 8, 8)
SMALL = {"width": 0.0625, "in_channels": 1, "image_size": 8}


@pytest.fixture
def result():
    return sc.prune(models["vgg11"](**SMALL), X, ratio=0.5)


def test_a_folder_that_names_its_source_is_loaded_alone(tmp_path, result):
    sc.save(result, tmp_path, source="zoo:vgg11", arguments=SMALL)
    loaded = sc.load(tmp_path)
    assert torch.equal(loaded.eval()(X), result.model.eval()(X))
    again = sc.prune(loaded, X, ratio=0.3)
    sc.save(again, tmp_path / "again")  # the source stands in the plan that the loaded model remembers
    assert torch.equal(sc.load(str(tmp_path / "again")).eval()(X), again.model.eval()(X))


def test_a_folder_that_names_none_says_how_to_load_it(tmp_path, result):
    sc.save(result, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"does not say what builds VGG(.|\n)*secateur.load\(folder, arch"
    ):
        sc.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        sc.load("zoo:vgg11")


def test_a_file_that_a_folder_names_is_run_only_when_it_is_named_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\n"
    )
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    result = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
    sc.save(result, "half", source="net.py:make")
    with pytest.raises(SourceError, match=r"asks to run 'net.py:make'(.|\n)*half@net.py:make"):
        sc.load("half")
    assert torch.equal(sc.load("half@net.py:make")[0].weight, result.model[0].weight)


@pytest.mark.parametrize(
    ("source", "arguments", "told"),
    [
        ("zoo:vgg11", {}, r"zoo:vgg11 is not the uncut model(.|\n)*first difference: feature.0.weight"),
        ("zoo:vgg13", SMALL, "zoo:vgg13 is not the uncut model"),
        ("zoo:vgg99", SMALL, "vgg99"),
        ("zoo:vgg11", {**SMALL, "width": None}, "argument width is None"),
        ("", SMALL, "arguments have no source"),
    ],
)
def test_a_source_of_another_architecture_is_refused_when_it_is_saved(
    tmp_path, result, source, arguments, told
):
    with pytest.raises(RequestError, match=told):
        sc.save(result, tmp_path, source=source, arguments=arguments)
    assert not any(tmp_path.iterdir())


def test_a_source_whose_shapes_fit_and_whose_layers_differ_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))\n"
    )
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(
        RequestError, match=r"net.py:make builds \(1\): Tanh\(\), the model has \(1\): ReLU\(\)"
    ):
        sc.save(sc.prune(net, torch.zeros(1, 4), ratio=0.5), "half", source="net.py:make")


def test_pretrained_values_are_no_part_of_a_source(tmp_path):
    pytest.importorskip("torchvision")
    from torchvision.models import resnet18

    x = torch.zeros(1, 3, 32, 32)
    cut = sc.prune(resnet18(num_classes=5), x, ratio=0.5).model
    sc.save(cut, tmp_path, source="torchvision:resnet18", arguments={"num_classes": 5, "weights": "DEFAULT"})
    assert torch.equal(sc.load(tmp_path).eval()(x), cut.eval()(x))
    assert dict(sc.Plan.of(sc.load(tmp_path)).source_arguments) == {"num_classes": 5}
