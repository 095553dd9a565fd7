"""Folders that are cut again, and folders that hold another model already."""

import json

import torch

import secateur as sc


def test_a_saved_folder_is_cut_again_and_again(studio, run, tmp_path):
    """Depth after width, then width again; Python and the command line in turn."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run("prune", studio.dense, "--ratio", 0.3, "--save", once).code == 0
    assert run("prune", once, "--ratio", 0.3, "--save", twice).code == 0
    model = sc.load(twice)
    assert len(sc.Plan.of(model).chain) == 2
    x = torch.zeros(1, 1, 8, 8)
    thrice = sc.prune(model, x, ratio=0.2)
    folder = sc.save(thrice.model, tmp_path / "thrice")
    assert torch.equal(sc.load(folder).eval()(x), thrice.model.eval()(x))
    assert run("check", studio.dense, folder).code == 0
    assert run("check", twice, folder).code == 0
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["previous"]["previous"]["source"].startswith("zoo:")


def test_a_folder_with_another_model_is_refused_before_the_work(studio, run, refuse, tmp_path):
    folder = tmp_path / "half"
    words = ("prune", studio.dense, "--save", folder, "--ratio")
    assert run(*words, 0.3).code == 0
    before = (folder / "weights.safetensors").read_bytes()
    told = refuse(2, *words, 0.6)
    assert "already holds a model: VGG after ratio=0.3" in told
    assert "--overwrite" in told
    assert (folder / "weights.safetensors").read_bytes() == before
    assert run(*words, 0.3).code == 0  # the same command replaces what it wrote
    assert run(*words, 0.6, "--overwrite").code == 0
    assert (folder / "weights.safetensors").read_bytes() != before
    told = refuse(2, "mask", "prune", studio.dense, "--amount", 0.5, "--save", folder)
    assert "already holds a model" in told
