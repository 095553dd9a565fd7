import dataclasses
import math

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from secateur.errors import RequestError, SecateurError
from secateur.penalise import penalties
from secateur.penalise.sparsity import batch_norm_scales
from secateur.train import FitConfig, evaluate, fit, loop

QUIET = FitConfig(epochs=3, lr=0.05, batch_size=16, quiet=True, device="cpu")


def test_fit_learns_and_reports_each_epoch(splits, narrow):
    seen = []
    result = fit(narrow, splits, dataclasses.replace(QUIET, epochs=20, lr=0.2), on_epoch=seen.append)
    assert evaluate(result.model, splits.test).accuracy > 0.9
    assert tuple(seen) == result.history
    assert [record.epoch for record in seen] == list(range(1, 21))
    assert seen[0].train_loss > seen[-1].train_loss
    assert seen[-1].lr == pytest.approx(0.2 / 100)
    assert all(sum(record.gammas) == 6 for record in seen)
    assert all(record.penalty == 0 for record in seen)


def test_the_callers_model_and_random_state_are_untouched(splits, narrow, equal_weights):
    narrow.eval()
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    result = fit(narrow, splits, dataclasses.replace(QUIET, threads=1))
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())
    assert all(parameter.grad is None for parameter in narrow.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not equal_weights(result.model, narrow)
    assert result.model.deep.weight.is_contiguous()
    assert not result.model.training


def test_a_run_repeats_bit_for_bit_and_the_seed_matters(splits, narrow, equal_weights):
    one, other = fit(narrow, splits, QUIET), fit(narrow, splits, QUIET)
    assert equal_weights(one.model, other.model)
    third = fit(narrow, splits, dataclasses.replace(QUIET, seed=1))
    assert not equal_weights(one.model, third.model)


def test_kept_weights_are_those_of_the_best_validation_epoch(splits, narrow):
    config = dataclasses.replace(QUIET, epochs=6, lr=0.3)
    best, last = (fit(narrow, splits, dataclasses.replace(config, keep=keep)) for keep in ("best", "last"))
    accuracies = [record.val_accuracy for record in best.history]
    assert best.kept_epoch == best.best_epoch == 6 - accuracies[::-1].index(max(accuracies))
    assert last.kept_epoch == 6
    for result in (best, last):
        assert evaluate(result.model, splits.validation).accuracy == pytest.approx(result.kept.val_accuracy)


def test_the_test_part_is_never_touched(splits, narrow):
    class Guarded:
        train, validation = splits.train, splits.validation

        @property
        def test(self):
            raise AssertionError("fit looked at the test part")

    assert len(fit(narrow, Guarded(), dataclasses.replace(QUIET, epochs=1)).history) == 1


def test_the_penalty_makes_scales_sparse_and_leaves_the_callers_alone(splits, tiny_vgg):
    penalty = penalties["bn-l1"](batch_norm_scales(tiny_vgg), strength=0.3)
    config = dataclasses.replace(QUIET, epochs=6)
    dense = fit(tiny_vgg, splits, config)
    sparse = fit(tiny_vgg, splits, config, penalty)
    assert dense.history[-1].near_zero_share == 0
    assert sparse.history[-1].near_zero_share > 0.2
    assert sparse.history[0].penalty > sparse.history[-1].penalty > 0
    assert all((scale == 0.5).all() for scale in penalty.scales)


def test_a_penalty_on_another_models_parameters_is_refused(splits, narrow):
    penalty = penalties["bn-l1"]([nn.Parameter(torch.ones(3))], strength=0.1)
    with pytest.raises(RequestError, match="not the model's"):
        fit(narrow, splits, QUIET, penalty)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_penalty_means_the_same_under_loss_scaling(splits, narrow, monkeypatch, scale):
    """A float16 run on the CPU: the scale's own pull is the whole gradient when the task has none."""

    def scaled(device, precision):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000)
        plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
        monkeypatch.setattr(plugin, "forward_context", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
        monkeypatch.setattr(plugin, "convert_input", lambda data: data)
        return Fabric(accelerator="cpu", plugins=[plugin])

    monkeypatch.setattr(loop, "make_fabric", scaled)
    nn.init.zeros_(narrow.head.weight)
    narrow.head.requires_grad_(False)  # no gradient reaches the batch norm
    config = dataclasses.replace(QUIET, epochs=1, lr=0.01, momentum=0.0, weight_decay=0.0, schedule="cosine")
    result = fit(narrow, splits, config, penalties["bn-l1"]([narrow.norm.weight], strength=0.1))
    steps = math.ceil(len(splits.train) / 16)
    moved = 0.1 * sum(0.01 * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps))
    assert torch.allclose(result.model.norm.weight, torch.full((6,), 1 - moved), atol=1e-6)


def test_bfloat16_and_cosine_also_learn(splits, narrow):
    config = dataclasses.replace(
        QUIET, epochs=8, precision="bf16-mixed", schedule="cosine", channels_last=False
    )
    result = fit(narrow, splits, config)
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert all(parameter.dtype == torch.float32 for parameter in result.model.parameters())


def test_workers_give_the_same_weights(splits, narrow, equal_weights):
    config = dataclasses.replace(QUIET, epochs=1)
    one, other = (fit(narrow, splits, dataclasses.replace(config, workers=n)) for n in (0, 2))
    assert equal_weights(one.model, other.model)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(splits, narrow, tmp_path):
    def break_down(record):
        if record.epoch == 2:
            splits.spec.__dict__["std"] = (0.0,)

    config = dataclasses.replace(QUIET, save=tmp_path)
    with pytest.raises(SecateurError, match="of epoch 3 is nan\n  the checkpoint of epoch 2 is kept"):
        fit(narrow, splits, config, on_epoch=break_down)
    with pytest.raises(SecateurError, match="nothing was saved"):
        fit(narrow, splits, QUIET)
    assert (tmp_path / "epoch-0002" / "weights.safetensors").is_file()


def test_frozen_parameters_stay_and_a_model_without_any_other_is_refused(splits, narrow):
    narrow.conv.requires_grad_(False)
    result = fit(narrow, splits, dataclasses.replace(QUIET, epochs=1))
    assert torch.equal(result.model.conv.weight, narrow.conv.weight)
    with pytest.raises(RequestError, match="no parameter of the model requires a gradient"):
        fit(narrow.requires_grad_(False), splits, QUIET)


def test_tied_weights_stay_tied_and_can_be_saved(splits, tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(36, 36)
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(36, 4))
    result = fit(model, splits, dataclasses.replace(QUIET, epochs=1, save=tmp_path))
    assert result.model[1].weight is result.model[3].weight
    assert evaluate(result.model, splits.validation).accuracy == result.kept.val_accuracy


def test_progress_goes_to_standard_error_one_line_per_epoch(splits, narrow, capsys):
    fit(narrow, splits, dataclasses.replace(QUIET, quiet=False, log_interval=4))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert sum(line.startswith("epoch ") and "validation" in line for line in lines) == 3
    assert "epoch 1/3  step 4/8" in lines
    fit(narrow, splits, QUIET)
    assert capsys.readouterr().err == ""


def test_tensorboard_writes_events_only_when_asked(splits, narrow, tmp_path):
    pytest.importorskip("tensorboard")
    fit(narrow, splits, dataclasses.replace(QUIET, epochs=1, tensorboard=tmp_path))
    assert [path.name.startswith("events.out") for path in tmp_path.iterdir()] == [True]


def test_missing_tensorboard_says_what_to_install(splits, narrow, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(RequestError, match=r"pip install 'secateur\[tensorboard\]'"):
        fit(narrow, splits, dataclasses.replace(QUIET, tensorboard=tmp_path))
