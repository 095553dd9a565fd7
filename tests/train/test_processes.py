"""Several processes would each train the whole run: they are refused until training is distributed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from secateur.domains.darknet import Darknet
from secateur.domains.darknet.data import digit_scenes, loader
from secateur.domains.darknet.demo import DemoConfig, run_demo
from secateur.domains.darknet.fit import fit_detector
from secateur.domains.darknet.recipe import DetectorFitConfig as DetectorRecipe
from secateur.errors import RequestError
from secateur.iterative import Recipe, iterate
from secateur.plans.making import identity_plan
from secateur.slimming import SlimConfig, slim
from secateur.train import FitConfig, fit

CONFIG = FitConfig(epochs=1, quiet=True, device="cpu")
SENTENCE = "training runs in one process and this is one of 2, so start it without torchrun"


def _slim(model, data, folder):
    config = SlimConfig(CONFIG, CONFIG, CONFIG, strength=0.1, ratio=0.5, save=folder)
    slim(model, identity_plan(model, "", {}), data, config)


def _detector(_model, _data, folder):
    scenes = digit_scenes(train=2, valid=0)
    batches = loader(scenes["train"], scenes.names, 64, 2, training=True)
    fit_detector(Darknet("digits"), batches, None, DetectorRecipe(epochs=1, quiet=True, save=folder))


ENTRIES = {
    "fit": lambda model, data, folder: fit(model, data, replace(CONFIG, save=folder)),
    "slim": _slim,
    "iterate": lambda model, data, folder: iterate(
        model, torch.zeros(1, 4), data, Recipe(CONFIG, steps=1, ratio=0.5), save=folder
    ),
    "detector": _detector,
    "darknet demo": lambda _model, _data, folder: run_demo(DemoConfig(folder), lambda _: None),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_more_than_one_process_is_refused_in_a_sentence_before_anything_is_written(
    splits, narrow, tmp_path, monkeypatch, entry
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError) as caught:
        ENTRIES[entry](narrow, splits, tmp_path / "run")
    assert str(caught.value) == SENTENCE
    assert not (tmp_path / "run").exists()


def test_a_process_group_of_several_ranks_is_refused_without_the_variable(splits, narrow, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RequestError, match="one of 2"):
        fit(narrow, splits, CONFIG)


@pytest.mark.parametrize("word", ["1", "", "many"])
def test_one_process_under_a_launcher_trains(splits, narrow, monkeypatch, word):
    monkeypatch.setenv("WORLD_SIZE", word)
    assert isinstance(fit(narrow, splits, CONFIG).model, nn.Module)
