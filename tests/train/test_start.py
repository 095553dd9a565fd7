"""Fine-tuning that does no harm: what comes in counts as epoch 0, in runs that are stopped, too."""

import dataclasses

import pytest
import torch

import secateur as sc
from secateur.train import FitConfig, best_folder, fit, last_folder
from secateur.train.evaluation import evaluate
from secateur.train.figures import Figures
from secateur.train.history import EpochRecord, find_best_epoch

QUIET = FitConfig(epochs=3, lr=0.05, batch_size=16, quiet=True, device="cpu", keep="best-or-start")
HARMFUL = dataclasses.replace(QUIET, lr=50.0, schedule="constant")


class Killed(BaseException):
    pass


@pytest.fixture
def good(narrow, splits):
    """A network that is right everywhere: nothing can be better."""
    model = fit(narrow, splits, dataclasses.replace(QUIET, epochs=25, keep="last")).model
    assert evaluate(model, splits.validation).accuracy == 1
    return model


def test_training_that_only_harms_returns_what_came_in(good, splits, equal_weights):
    result = fit(good, splits, HARMFUL)
    assert max(record.val_accuracy for record in result.history) < 1
    assert equal_weights(result.model, good)
    assert result.model is not good
    assert (result.best_epoch, result.kept_epoch, len(result.history)) == (0, 0, 3)
    assert result.kept is result.start
    assert result.start.val_accuracy == 1
    assert str(result).startswith(
        "trained 3 epochs, kept the start, as none is better: validation accuracy 1"
    )
    best = fit(good, splits, dataclasses.replace(HARMFUL, keep="best"))
    assert best.start is None
    assert best.kept_epoch > 0
    assert not equal_weights(best.model, good)


def test_a_better_epoch_is_kept_and_an_equal_one_is_no_reason_to_change(narrow, good, splits, equal_weights):
    result = fit(narrow, splits, dataclasses.replace(QUIET, epochs=8))
    assert result.start.val_accuracy < result.kept.val_accuracy
    assert result.kept_epoch == result.best_epoch > 0
    gentle = fit(good, splits, dataclasses.replace(QUIET, lr=1e-6))
    assert gentle.history[-1].val_accuracy == gentle.start.val_accuracy
    assert gentle.kept_epoch == 0
    assert equal_weights(gentle.model, good)


def test_an_average_of_weights_starts_from_what_came_in(good, splits, equal_weights):
    result = fit(good, splits, dataclasses.replace(HARMFUL, ema=0.9))
    assert result.kept_epoch == 0
    assert equal_weights(result.model, good)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_stopped_run_remembers_what_came_in(good, splits, tmp_path, epoch, ema, make_narrow, equal_weights):
    """What is passed to go on is another network: the start lies in the folder."""
    config = dataclasses.replace(HARMFUL, save=tmp_path, ema=ema)

    def die(record):
        if record.epoch == epoch:
            raise Killed

    def die_at_once(folder):
        if last_folder(tmp_path) is not None:
            raise Killed

    with pytest.raises(Killed):
        fit(good, splits, config, on_epoch=die, on_checkpoint=None if epoch else die_at_once)
    assert last_folder(tmp_path).name == f"epoch-000{epoch}"
    assert best_folder(tmp_path).name == "epoch-0000"
    resumed = fit(make_narrow(), splits, dataclasses.replace(config, resume=True))
    whole = fit(good, splits, dataclasses.replace(HARMFUL, ema=ema))
    assert equal_weights(resumed.model, good)
    assert resumed.kept_epoch == 0
    wholes, others = (
        [dataclasses.replace(one, seconds=0) for one in (each.start, *each.history)]
        for each in (whole, resumed)
    )
    assert wholes == others


def test_the_start_goes_when_an_epoch_is_better(narrow, splits, tmp_path):
    result = fit(narrow, splits, dataclasses.replace(QUIET, epochs=8, save=tmp_path))
    assert best_folder(tmp_path).name == f"epoch-000{result.best_epoch}"
    assert not (tmp_path / "epoch-0000").exists()


def test_patience_counts_from_the_start(good, splits):
    stopped = fit(good, splits, dataclasses.replace(HARMFUL, epochs=9, patience=2))
    assert len(stopped.history) == 2
    assert stopped.kept_epoch == 0


def test_a_start_without_a_number_is_worse_than_any_epoch():
    start, first = (
        EpochRecord(at, 0.1, {}, {}, Figures({"a": a}, 1)) for at, a in enumerate((torch.nan, 0.1))
    )
    assert find_best_epoch((first,), start) == 1
    assert find_best_epoch((), start) == 0


def test_reports_say_that_the_start_was_kept(good, splits, tmp_path):
    result = fit(good, splits, HARMFUL)
    page = sc.report(result, tmp_path / "page.md")
    assert page.stages[0].validation_accuracy == 1
    said = "the weights are those before the training, as no epoch is better"
    assert said in (tmp_path / "page.md").read_text()


def test_settings_for_tuning_rise_first_and_keep_the_start():
    config = FitConfig.for_tuning(epochs=2)
    assert (config.epochs, config.keep, config.burn_in > 0) == (2, "best-or-start", True)
    assert FitConfig.for_tuning(keep="last").keep == "last"
