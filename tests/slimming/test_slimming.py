"""Network slimming from end to end, and the faults of the scripts it replaces."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import secateur as sc
from secateur.domains.classification import load
from secateur.errors import NoEffectWarning, RequestError
from secateur.penalise import penalties
from secateur.penalise.scales import prunable_scales
from secateur.plans.making import identity_plan
from secateur.recovery import Recovered, Recovery
from secateur.slimming import run as slimming
from secateur.slimming.notes import absorbed_note, cliff_note, refit_note
from secateur.slimming.run import SlimConfig, outlook, slim
from secateur.slimming.summary import kept_channels, shares_removed, slim_report, stage_numbers
from secateur.train import FitConfig, fit
from secateur.zoo import models

X = torch.zeros(1, 1, 8, 8)
QUICK = {"batch_size": 256, "quiet": True, "device": "cpu", "threads": 1}
FIT = FitConfig(epochs=1, lr=0.05, **QUICK)


def vgg(gamma=0.5):
    torch.manual_seed(0)
    return models["vgg11"](width=1 / 16, in_channels=1, image_size=8, gamma=gamma)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def config(folder, **options):
    settings = {"strength": 0.3, "ratio": 0.5, "save": folder, "latency_batch": 2, **options}
    return SlimConfig(FIT, FitConfig(epochs=1, lr=0.05, keep="last", **QUICK), FIT, **settings)


@pytest.fixture(scope="module")
def twice(digits, tmp_path_factory):
    said = []
    network = vgg()
    before = copy.deepcopy(network.state_dict())
    folder = tmp_path_factory.mktemp("slim")
    run = slim(
        network, identity_plan(network, "zoo:vgg11", {}), digits, config(folder, passes=2), said.append
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return run, said, folder


def widths(model):
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


# The faults of the scripts.


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7])
def test_ties_at_the_threshold_remove_exactly_the_asked_number(ratio):
    """All scales are equal: `mask = weight > threshold` removes everything, `>=` nothing."""
    model = vgg(gamma=0.5)
    total = sum(widths(model))
    result = sc.prune(model, X, ratio=ratio, criterion="bn-scale", min_keep=0.0)
    assert total - sum(widths(result.model)) == round(ratio * total)


def test_a_ratio_of_zero_keeps_the_model_and_says_so():
    model = vgg()
    with pytest.warns(NoEffectWarning, match="asks for nothing"):
        result = sc.prune(model, X, ratio=0, criterion="bn-scale")
    assert widths(result.model) == widths(model)


def test_a_ratio_of_one_is_refused():
    """`y[int(total * 1.0)]` is an IndexError in the scripts."""
    with pytest.raises(RequestError, match="ratio is 1\n"):
        sc.prune(vgg(), X, ratio=1.0, criterion="bn-scale")


def test_no_layer_vanishes_however_small_its_scales():
    model = vgg()
    with torch.no_grad():
        model.feature[1].weight.fill_(1e-6)
        model.feature[12].weight.fill_(1e-7)
    result = sc.prune(model, X, ratio=0.7, criterion="bn-scale", min_keep=0.0)
    assert min(widths(result.model)) == 1
    assert result.model.eval()(X).isfinite().all()
    floor = sc.prune(model, X, ratio=0.5, criterion="bn-scale", min_keep=0.25)
    assert all(after >= before / 4 for before, after in zip(widths(model), widths(floor.model), strict=True))


def test_the_global_ranking_takes_the_smallest_scales_of_all_layers():
    model = vgg()
    scales = prunable_scales(model, sc.couple(model, X))
    with torch.no_grad():
        for scale in scales:
            scale.copy_(torch.rand_like(scale) + 0.1)
    result = sc.prune(model, X, ratio=0.4, criterion="bn-scale", min_keep=0.0)
    kept = [scale.detach().abs() for scale in prunable_scales(result.model, sc.couple(result.model, X))]
    everything = torch.cat([scale.detach() for scale in scales]).sort().values
    threshold = everything[round(0.4 * len(everything))]
    assert torch.cat(kept).min() >= threshold


def test_a_refined_model_keeps_its_architecture_and_goes_on(digits, tmp_path):
    """The scripts save `cfg` when pruning, and forget it when fine-tuning."""
    result = sc.prune(vgg(), X, ratio=0.5, criterion="bn-scale", recover=["absorb"])
    fitted = fit(result.model, digits, FIT)
    assert widths(fitted.model) == widths(result.model)
    again = sc.prune(fitted.model, X, ratio=0.3, criterion="bn-scale")
    assert again.verdict.exact
    loaded = sc.load(sc.save(replace(result, model=fitted.model), tmp_path), vgg())
    assert widths(loaded) == widths(result.model)
    assert torch.equal(loaded.classifier.weight, fitted.model.classifier.weight)


def test_shifts_of_removed_channels_are_not_thrown_away():
    model = vgg().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.uniform_(0.2, 0.6)
                module.weight[::2] = 0
    x = torch.randn(16, 1, 8, 8)
    plain, kept = (
        sc.prune(model, X, ratio=0.4, criterion="bn-scale", recover=steps) for steps in (None, ["absorb"])
    )
    with torch.no_grad():
        lost, restored = ((result.model(x) - model(x)).abs().mean().item() for result in (plain, kept))
    assert restored < 0.7 * lost


def test_the_penalty_acts_on_prunable_scales_only(digits):
    model = vgg()
    penalty = penalties["bn-l1"].of(model, sc.couple(model, X), 1.0)
    fitted = fit(model, digits, FitConfig(epochs=1, lr=0.05, keep="last", **QUICK), penalty)
    plain = fit(model, digits, FIT)
    before, after = (
        torch.cat(prunable_scales(net, sc.couple(net, X))).abs().mean() for net in (plain.model, fitted.model)
    )
    assert after < before


def test_a_model_without_batch_norm_is_refused_before_training(digits, tmp_path):
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    said = []
    with pytest.raises(RequestError, match="no prunable channel has a batch-norm scale"):
        slim(plain, identity_plan(plain, "", {}), digits, config(tmp_path / "out"), said.append)
    with pytest.raises(RequestError, match="no prunable channel has a batch-norm scale"):
        penalties["bn-l1"].of(plain, sc.couple(plain, X), 0.1)
    assert said == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 0}, "passes is 0"),
        ({"ratio": 1.0}, "ratio is 1"),
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"strength": -1.0}, "s is -1"),
        ({"min_keep": 1.5}, "min_keep is 1.5"),
        ({"round_to": 0}, "round_to is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_training(tmp_path, options, message):
    with pytest.raises(RequestError, match=message):
        config(tmp_path, **options)


# A run of two passes.


def test_every_stage_is_saved_measured_and_loads(twice):
    run, _, folder = twice
    assert [stage.name for stage in run.stages] == ["dense", "sparse", "pruned", "recovered", "finetuned"]
    for stage in run.stages:
        loaded = sc.load(folder / stage.name, vgg())
        state = stage.model.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
        assert stage.size_bytes == (folder / stage.name / "weights.safetensors").stat().st_size
        assert stage.cost == sc.measure(stage.model, X)
        assert stage.latency_ms > 0
        assert 0 <= stage.test.values["accuracy"] <= 1
    assert run["dense"].cost.params > run["sparse"].cost.params > run["pruned"].cost.params
    assert run["pruned"].cost == run["finetuned"].cost
    assert run["pruned"].fitted is None


def test_passes_multiply_to_the_asked_ratio(twice):
    run, _, _ = twice
    before, after = sum(widths(run["dense"].model)), sum(widths(run["finetuned"].model))
    assert 1 - after / before == pytest.approx(0.5, abs=0.01)
    requested, achieved = shares_removed(run)
    assert requested == pytest.approx(0.5, abs=1e-5)
    assert achieved == pytest.approx(1 - after / before)


def test_the_chain_of_plans_leads_from_the_uncut_network(twice):
    run, _, _ = twice
    assert run.plan.previous is not None
    assert run.plan.previous.source == "zoo:vgg11"
    assert widths(run.plan.apply(vgg())) == widths(run["finetuned"].model)
    kept = kept_channels(run)
    assert kept["feature.25"] == run["finetuned"].model.feature[25].out_channels


def test_the_report_counts_from_the_uncut_network(twice, digits):
    run, _, folder = twice
    report = slim_report(run, digits, title="t", command="c", written={"dense": folder})
    assert report.model == "zoo:vgg11 on digits"
    first, last = run["dense"].model, run["finetuned"].model
    for row in report.layers:
        layer, left = first.get_submodule(row.name), last.get_submodule(row.name)
        assert row.params_before == sum(parameter.numel() for parameter in layer.parameters())
        assert row.params_after == sum(parameter.numel() for parameter in left.parameters())
    assert sum(row.macs_before for row in report.layers) == run["dense"].cost.macs
    assert sum(row.macs_after for row in report.layers) == run["finetuned"].cost.macs
    assert {row.status for row in report.groups} >= {"pruned", "protected"}
    assert report.split.test_images == len(digits.test)
    assert [stage.name for stage in report.stages] == ["dense", "sparse", "pruned", "recovered", "finetuned"]
    assert report.gamma is not None
    assert len(report.gamma.counts) == 1


def test_the_numbers_of_a_stage_are_what_json_prints(twice):
    run, _, _ = twice
    assert set(stage_numbers(run["pruned"])) >= {"accuracy", "params", "macs", "size_bytes", "latency_ms"}


def test_the_user_is_told_each_step_and_warned(twice):
    _, said, _ = twice
    text = "\n".join(said)
    assert "pass 1 of 2: training sparse; s=0.3 can move a batch-norm scale by" in text
    assert "pass 2 of 2" in text
    assert text.count("fine-tuning, 1 epochs") == 2


def test_notes_tell_the_cliff_and_what_was_absorbed(twice):
    run, _, _ = twice
    notes = "\n".join(run.notes)
    assert "of the prunable scales are near zero" in notes
    assert absorbed_note(run.result) in notes
    assert "1 thread" in notes


def test_the_same_seed_gives_the_same_weights(twice, digits, tmp_path):
    run, _, folder = twice
    network = vgg()
    slim(network, identity_plan(network, "zoo:vgg11", {}), digits, config(tmp_path, passes=2))
    for stage in run.stages:
        one, two = (load_file(path / stage.name / "weights.safetensors") for path in (folder, tmp_path))
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


# Words.


def test_notes_count_layers_by_their_status_and_no_words_on_a_step():
    def done(step):
        found = ("exact", "approximate", "approximate", "left alone", "limit")
        return [Recovery(step, f"layer {at}", status, "exact left alone") for at, status in enumerate(found)]

    errors = (Recovered("refit", 0.5, 0.25, "the last batch"),)
    result = SimpleNamespace(recovered=(*done("absorb"), *done("refit"), *done("refit")), errors=errors)
    assert refit_note(result, 2048).startswith("recovered: 6 layers refitted by least squares on 2,048 ")
    assert "into 3 next layers: exactly in 1, approximately in 2 (" in absorbed_note(result)
    assert absorbed_note(result).endswith("left alone in 1")


def test_a_ratio_beyond_the_cliff_is_said():
    assert "beyond the cliff" in cliff_note(0.2, 0.7)
    assert "beyond" not in cliff_note(0.7, 0.7)


def test_more_epochs_more_strength_and_more_images_reach_further():
    reach = outlook(FitConfig(epochs=2), 1e-3, 1000).reach
    assert outlook(FitConfig(epochs=4), 1e-3, 1000).reach > reach
    assert outlook(FitConfig(epochs=2), 2e-3, 1000).reach > reach
    assert outlook(FitConfig(epochs=2), 1e-3, 2000).reach > reach
    assert outlook(FitConfig(epochs=2), 1e-3, 1000, initial=1.0).reach < reach


# A run that is interrupted.


class Killed(BaseException):
    pass


def run_until(monkeypatch, stage, epoch, *given):
    """Slim, and die after an epoch of one of its trainings."""
    real = slimming.fit

    def dying(model, data, config, penalty=None, **more):
        def on_epoch(record):
            if config.save.name == stage and record.epoch == epoch:
                raise Killed

        return real(model, data, config, penalty, on_epoch=on_epoch, **more)

    with monkeypatch.context() as patch:
        patch.setattr(slimming, "fit", dying)
        with pytest.raises(Killed):
            slim(*given)


@pytest.mark.parametrize(
    ("stage", "epoch"), [("dense", 1), ("sparse-1", 1), ("finetune-1", 1), ("sparse-2", 1), ("finetune-2", 2)]
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(twice, digits, tmp_path, monkeypatch, stage, epoch):
    whole, _, _ = twice
    network = vgg()
    given = (network, identity_plan(network, "zoo:vgg11", {}), digits)
    settings = config(tmp_path, passes=2)
    if epoch == 2:  # after the last training: all that is left is to measure
        slim(*given, settings)
    else:
        run_until(monkeypatch, stage, epoch, *given, settings)
    trained, real = [], slimming.fit
    monkeypatch.setattr(slimming, "fit", lambda *args, **more: real(*args, on_epoch=trained.append, **more))
    run = slim(*given, replace(settings, resume=True))
    names = ["dense", "sparse-1", "finetune-1", "sparse-2", "finetune-2"]
    assert len(trained) == (0 if epoch == 2 else 4 - names.index(stage))
    for stage in whole.stages:
        state = stage.model.state_dict()
        assert all(
            torch.equal(value, state[name]) for name, value in run[stage.name].model.state_dict().items()
        )
    assert [len(stage.fitted.history) for stage in run.stages if stage.fitted] == [1, 1, 1]


def test_a_run_is_neither_overwritten_nor_resumed_unasked_nor_as_another(digits, tmp_path):
    network = vgg()
    given = (network, identity_plan(network, "zoo:vgg11", {}), digits)
    settings = config(tmp_path)
    slim(*given, settings)
    with pytest.raises(RequestError, match=r"already holds a run \(slim.json\)(.|\n)*--resume"):
        slim(*given, settings)
    with pytest.raises(RequestError, match=r"(?s)with other settings.*ratio: 0.5 there, 0.25 asked for"):
        slim(*given, replace(settings, ratio=0.25, resume=True))
    torch.manual_seed(1)
    other = models["vgg11"](width=1 / 16, in_channels=1, image_size=8, gamma=0.5)
    with pytest.raises(RequestError, match="model: "):
        slim(other, *given[1:], replace(settings, resume=True))
    slim(*given, replace(settings, ratio=0.25, overwrite=True))
    with pytest.raises(RequestError, match="both asked for"):
        replace(settings, resume=True, overwrite=True)
