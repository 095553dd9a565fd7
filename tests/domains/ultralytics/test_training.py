"""Ultralytics' trainers with a pruned network: the cut stays, whatever they are told, or they stop."""

import pickle
import subprocess
import sys

import pytest
import torch
from ultralytics_scenes import write_scenes

from secateur.domains.ultralytics import sparsity, trainer
from secateur.errors import RequestError

ultralytics = pytest.importorskip("ultralytics")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, and those of the libraries that they use


def parameters(model):
    return sum(one.numel() for one in model.parameters())


def shapes(model):
    return {name: tuple(one.shape) for name, one in model.state_dict().items()}


def test_a_training_keeps_the_cut(cut, half, training):
    yolo = ultralytics.YOLO(half)
    seen = []
    yolo.add_callback("on_train_epoch_end", lambda trainer: seen.append(parameters(trainer.ema.ema)))
    yolo.train(trainer=trainer(yolo), epochs=2, multi_scale=0.5, **training)
    assert seen == [parameters(cut.model)] * 2
    assert shapes(yolo.model) == shapes(cut.model)
    moved = [
        name
        for name, one in yolo.model.state_dict().items()
        if one.dtype.is_floating_point and not torch.equal(one, cut.model.state_dict()[name])
    ]
    assert len(moved) > 0.9 * len(list(cut.model.parameters()))
    assert yolo.model.names == {0: "square", 1: "disc"}
    again = ultralytics.YOLO(yolo.trainer.last)
    assert again.val(data=training["data"], imgsz=64, plots=False, workers=0).box.map >= 0
    assert len(again.predict(torch.rand(1, 3, 64, 64), verbose=False)) == 1


def test_their_own_trainer_stops_before_it_builds_the_whole_network(half, training):
    with pytest.raises(KeyError, match=r"secateur wrote this network.*domains\.ultralytics\.trainer"):
        ultralytics.YOLO(half).train(epochs=1, **training)


class Stopped(Exception):  # noqa: N818
    pass


def test_a_training_that_was_stopped_goes_on(cut, half, training):
    def stop(trainer):
        if trainer.epoch == 1:
            raise Stopped

    yolo = ultralytics.YOLO(half)
    yolo.add_callback("on_train_epoch_start", stop)
    with pytest.raises(Stopped):
        yolo.train(trainer=trainer(yolo), epochs=3, **training)
    last = yolo.trainer.last
    with pytest.raises(KeyError, match="secateur wrote this network"):
        ultralytics.YOLO(last).train(resume=True, data=training["data"])
    again = ultralytics.YOLO(last)
    again.train(trainer=trainer(again), resume=True)
    assert again.trainer.start_epoch == 1
    assert shapes(again.model) == shapes(cut.model)


def test_a_teacher_may_be_whole(tiny, cut, half, training, tmp_path):
    whole = tmp_path / "whole.pt"
    ultralytics.YOLO(tiny).save(whole)
    yolo = ultralytics.YOLO(half)
    losses = []
    yolo.add_callback("on_train_batch_end", lambda trainer: losses.append(trainer.loss_items))
    yolo.train(trainer=trainer(yolo), epochs=1, distill_model=str(whole), **training)
    assert float(losses[0]["dis_loss"]) > 0
    assert shapes(yolo.model) == shapes(cut.model)


@pytest.mark.parametrize("pretrained", [False, "other.pt"])
def test_what_would_build_the_whole_network_is_refused(half, training, pretrained):
    yolo = ultralytics.YOLO(half)
    if pretrained:
        pretrained = str(half)
    with pytest.raises(RequestError, match="would be built whole from its YAML"):
        yolo.train(trainer=trainer(yolo), epochs=1, pretrained=pretrained, **training)


def test_a_yaml_cannot_be_trained_as_if_it_were_cut(tiny, training):
    yolo = ultralytics.YOLO(tiny)
    with pytest.raises(RequestError, match="no weights"):
        yolo.train(trainer=trainer(yolo), epochs=1, **training)


def test_other_classes_get_layers_of_their_own_and_known_ones_their_scores(half, training, tmp_path):
    from secateur.domains.ultralytics.trainers import PrunedDetectionTrainer

    data = tmp_path / "more.yaml"
    names = "names: {0: triangle, 1: disc, 2: square}"
    lines = write_scenes(tmp_path / "more", "detect").read_text().splitlines()
    data.write_text("\n".join([*lines[:3], names]))
    yolo = ultralytics.YOLO(half)
    yolo.model.names = {0: "square", 1: "disc"}
    made = PrunedDetectionTrainer(overrides={**training, "data": str(data), "model": str(half), "epochs": 1})
    fitted = made.get_model(cfg=yolo.model.yaml, weights=yolo.model)
    old, new = yolo.model.model[-1], fitted.model[-1]
    for before, after in zip(old.cv3, new.cv3, strict=True):
        assert after[-1].out_channels == 3
        assert torch.equal(after[-1].weight[[2, 1]], before[-1].weight)
        assert torch.equal(after[0][0].conv.weight, before[0][0].conv.weight)
    assert (new.nc, new.no, fitted.yaml["nc"]) == (3, old.no + 1, 3)
    assert old.nc == yolo.model.yaml["nc"] == 2
    yolo.train(trainer=trainer(yolo), epochs=1, **{**training, "data": str(data)})
    assert yolo.model.names[0] == "triangle"


def test_other_data_sets_one_after_the_other_begin_with_the_cut(half, cut, training, tmp_path):
    other = write_scenes(tmp_path / "other", "detect", seed=1)
    yolo = ultralytics.YOLO(half)
    yolo.train(trainer=trainer(yolo), epochs=1, **{**training, "data": [training["data"], str(other)]})
    made = [ultralytics.YOLO(run.last).model for run in yolo.trainer.trainers]
    assert [parameters(one) for one in made] == [parameters(cut.model)] * 2


def test_processes_of_a_training_on_several_gpus_find_trainer_and_network(half, training, tmp_path):
    """As `ultralytics.utils.dist` hands them over."""
    cloudpickle = pytest.importorskip("cloudpickle")
    yolo = ultralytics.YOLO(half)
    kind = trainer(yolo)
    made = kind(overrides={**training, "model": str(half), "epochs": 1})
    made.model = made.get_model(weights=yolo.model)
    state = tmp_path / "state.pt"
    torch.save({"trainer": type(made), "model": made.model}, state, pickle_module=cloudpickle)
    assert pickle.loads(pickle.dumps(kind)) is kind
    code = (
        f"import torch; held = torch.load({str(state)!r}, weights_only=False); "
        "print(held['trainer'].__module__, sum(one.numel() for one in held['model'].parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["secateur.domains.ultralytics.trainers", str(parameters(made.model))]


@pytest.mark.slow
def test_sparse_training_pulls_scales_to_zero(tiny, image, training):
    def mean_scale(strength):
        torch.manual_seed(0)
        yolo = ultralytics.YOLO(tiny)
        if strength:
            sparsity(yolo, image, strength)
        yolo.train(epochs=2, optimizer="SGD", lr0=0.05, warmup_epochs=0, nbs=4, **training)
        scales = [one.weight for one in yolo.model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        return float(torch.cat(scales).abs().mean())

    assert mean_scale(1.0) < 0.9 * mean_scale(0.0)


def test_a_trainer_is_asked_for_with_a_yolo(half):
    with pytest.raises(RequestError, match="yolo is str"):
        trainer(str(half))
