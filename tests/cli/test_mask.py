"""`secateur mask`: prune, report, remove, cut."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import secateur as sc
from secateur.sources import open_model

VGG = ("zoo:vgg11", "--arg", "width=0.0625")


def test_a_model_is_masked_reported_baked_and_loaded(run, tmp_path):
    outcome = run(
        "mask", "prune", *VGG, "--scope", "global", "--amount", 0.2, "--save", tmp_path / "m", "--json"
    )
    assert outcome.code == 0, outcome.err
    masked = open_model(str(tmp_path / "m")).model
    assert torch_prune.is_pruned(masked)
    assert outcome.json["sparsity"] == pytest.approx(0.2, abs=1e-4)
    outcome = run("mask", "report", tmp_path / "m")
    assert "20.00%" in outcome.out
    outcome = run("mask", "remove", tmp_path / "m", "--save", tmp_path / "b", "--packed")
    assert outcome.code == 0, outcome.err
    plain = open_model(str(tmp_path / "b")).model
    assert not torch_prune.is_pruned(plain)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(plain.eval()(x), masked.eval()(x), atol=1e-6)
    assert run("mask", "remove", tmp_path / "b", "--save", tmp_path / "c").code == 2


def test_masked_channels_are_cut_and_the_folder_loads(run, tmp_path):
    words = ("--structure", "structured", "--amount", 0.3, "--select", "feature.*")
    assert run("mask", "prune", *VGG, *words, "--save", tmp_path / "m").code == 0
    outcome = run("mask", "cut", tmp_path / "m", "--save", tmp_path / "cut", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["after"]["params"] < 0.6 * outcome.json["before"]["params"]
    x = torch.randn(2, 3, 32, 32)
    masked, cut = (open_model(str(tmp_path / name)).model.eval() for name in ("m", "cut"))
    assert torch.allclose(masked(x), cut(x), atol=1e-5)


def test_a_config_says_it_in_steps(run, tmp_path):
    steps = [
        {"method": "l1", "structure": "2:4", "select": "feature.11"},
        {"method": "random", "amount": 0.5, "select": "classifier"},
    ]
    (tmp_path / "masks.json").write_text(json.dumps(steps))
    outcome = run(
        "mask", "prune", *VGG, "--config", tmp_path / "masks.json", "--save", tmp_path / "m", "--json"
    )
    assert outcome.code == 0, outcome.err
    found = {row["name"]: row["sparsity"] for row in outcome.json["tensors"]}
    assert (found["feature.11.weight"], found["classifier.weight"], found["feature.0.weight"]) == (
        0.5,
        0.5,
        0,
    )
    (tmp_path / "masks.json").write_text('{"ammount": 0.5}')
    outcome = run("mask", "prune", *VGG, "--config", tmp_path / "masks.json", "--save", tmp_path / "n")
    assert outcome.code == 2
    assert "names 'ammount'" in outcome.err


def test_a_state_dict_of_torch_masks_is_baked(run, tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    torch_prune.l1_unstructured(net[0], "weight", 0.5)
    torch.save(net.state_dict(), tmp_path / "state.pth")
    outcome = run("mask", "remove", tmp_path / "state.pth", "--save", tmp_path / "plain.safetensors")
    assert outcome.code == 0, outcome.err
    assert "1 masks baked in, 50.00% zeros" in outcome.out
    from safetensors.torch import load_file

    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fresh.load_state_dict(load_file(tmp_path / "plain.safetensors"))
    x = torch.randn(3, 4)
    assert torch.equal(fresh(x), net(x))
    assert sc.mask.report(fresh)["0.weight"] == 0.5


def test_nonsense_is_refused(run, tmp_path):
    for words in (("--amount", 1.5), (), ("--amount", 0.5, "--method", "l3"), ("--structure", "3:5")):
        outcome = run("mask", "prune", *VGG, *words, "--save", tmp_path / "m")
        assert outcome.code == 2, outcome.out
    assert not (tmp_path / "m").exists()
