import copy
import dataclasses
import json

import pytest
import torch

import secateur as sc
from secateur.domains.classification import load
from secateur.domains.classification.images import labelled
from secateur.errors import CheckpointError, NoEffectWarning, RequestError
from secateur.iterative import ROWS, Recipe, iterate, run
from secateur.train import Distillation, FitConfig, evaluate, fit
from secateur.write.checkpoint import load_plan
from secateur.zoo import models

X = torch.zeros(1, 1, 8, 8)
TUNE = FitConfig(epochs=1, lr=0.02, batch_size=128, quiet=True, device="cpu", threads=1)
RECIPE = Recipe(TUNE, steps=2, schedule="geometric", ratio=0.75, check=False, min_keep=0.05)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def images(digits):
    return labelled(digits.train, 128)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return models["vgg11"](width=0.0625, in_channels=1, image_size=8, gamma=0.5)


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def figures(rows):
    return [dataclasses.replace(row, seconds=0) for row in rows]


def channels(model):
    convolutions = [layer for layer in model.feature if isinstance(layer, torch.nn.Conv2d)]
    return [layer.out_channels for layer in convolutions]


def test_each_step_cuts_its_share_of_what_is_left(net, digits, images):
    before = copy.deepcopy(net)
    seen = []
    done = iterate(net, X, digits, RECIPE, calibration=images, on_row=seen.append)
    assert [row.name for row in done.rows] == [
        *("step-01 cut", "step-01 recovered", "step-01 tuned"),
        *("step-02 cut", "step-02 recovered", "step-02 tuned"),
    ]
    assert tuple(seen) == done.rows
    assert [row.removed for row in done.rows[::3]] == pytest.approx([0.5, 0.75], abs=0.01)
    assert sum(channels(done.model)) == pytest.approx(0.25 * sum(channels(net)), abs=2)
    assert done.after.params == sum(parameter.numel() for parameter in done.model.parameters())
    assert evaluate(done.model, digits.validation).accuracy == pytest.approx(done.rows[-1].accuracy)
    assert same(done.plan.apply(net), done.plan.apply(before))
    assert same(net, before)
    assert channels(done.plan.apply(net)) == channels(done.model)


@pytest.mark.parametrize(
    ("budget", "figure"),
    [
        ({"macs": 0.3}, "macs"),
        ({"params": 12000}, "params"),
        ({"size_bytes": "50%"}, "size_bytes"),
        ({"memory": "60%"}, "memory_bytes"),
    ],
)
def test_other_budgets_are_met_in_the_end(net, digits, budget, figure):
    recipe = Recipe(TUNE, steps=2, recover=(), check=False, min_keep=0.0, **budget)
    done = iterate(net, X, digits, recipe)
    wanted = recipe.budget.target(getattr(done.before, figure))
    assert getattr(done.after, figure) == pytest.approx(wanted, rel=0.05)
    assert [row.stage for row in done.rows] == ["cut", "tuned"] * 2


def test_a_budget_out_of_reach_is_named_with_its_step(net, digits):
    recipe = Recipe(TUNE, steps=2, memory=60, recover=(), check=False)
    with pytest.raises(RequestError, match=r"step \d of 2, towards memory=60: .*smallest reachable"):
        iterate(net, X, digits, recipe)


def test_no_group_falls_below_the_floor_of_all_steps(net, digits):
    recipe = dataclasses.replace(RECIPE, steps=3, min_keep=0.25, recover=())
    done = iterate(net, X, digits, recipe)
    assert all(
        after >= 0.25 * before for before, after in zip(channels(net), channels(done.model), strict=True)
    )
    assert (
        min(after / before for before, after in zip(channels(net), channels(done.model), strict=True)) < 0.4
    )


def test_steps_smaller_than_a_channel_are_left_to_the_next(net, digits):
    recipe = Recipe(TUNE, steps=8, schedule="agp", ratio=0.03, recover=(), check=False)
    done = iterate(net, X, digits, recipe)
    assert len(done.rows) == 16
    assert sum(channels(net)) - sum(channels(done.model)) == round(0.03 * sum(channels(net)))


def test_only_the_last_step_is_refused_where_rounding_lets_nothing_go(net, digits):
    recipe = Recipe(TUNE, steps=4, schedule="agp", ratio=0.3, round_to=8, recover=(), check=False)
    stages = []
    with pytest.raises(RequestError, match=r"step 4 of 4, towards ratio=0\.3: .* prunes nothing"):
        iterate(net, X, digits, recipe, on_row=lambda row: stages.append((row.name, row.removed)))
    removed = dict(stages)
    assert removed["step-03 cut"] == removed["step-02 cut"] > removed["step-01 cut"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["step-01 cut", "step-02 recovered"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(net, digits, images, tmp_path, at):
    whole = iterate(net, X, digits, RECIPE, calibration=images)

    def stop(row):
        if row.name == at:
            raise Killed

    with pytest.raises(Killed):
        iterate(net, X, digits, RECIPE, calibration=images, save=tmp_path, on_row=stop)
    seen = []
    done = iterate(net, X, digits, RECIPE, calibration=images, save=tmp_path, resume=True, on_row=seen.append)
    assert same(done.model, whole.model)
    assert figures(done.rows) == figures(whole.rows)
    assert at not in [row.name for row in seen]
    assert done.plan.keep == whole.plan.keep


def test_a_run_that_was_stopped_within_a_fine_tuning_goes_on(net, digits, images, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, finetune=dataclasses.replace(TUNE, epochs=3))
    whole = iterate(net, X, digits, recipe, calibration=images)
    original, calls = run.fit, []

    def interrupted(*args, **options):
        calls.append(args)

        def stop(record):
            if len(calls) == 2 and record.epoch == 2:
                raise Killed

        return original(*args, **options, on_epoch=stop)

    monkeypatch.setattr(run, "fit", interrupted)
    with pytest.raises(Killed):
        iterate(net, X, digits, recipe, calibration=images, save=tmp_path)
    assert (tmp_path / "step-02" / "epoch-0002").is_dir()
    done = iterate(net, X, digits, recipe, calibration=images, save=tmp_path, resume=True)
    assert len(calls) == 3
    assert same(done.model, whole.model)


def test_rows_are_json_lines_and_every_step_is_a_saved_model(net, digits, images, tmp_path):
    done = iterate(net, X, digits, RECIPE, calibration=images, save=tmp_path)
    opening, *rows = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    assert opening["schedule"] == "geometric"
    assert opening["finetune"]["epochs"] == 1
    assert [row["name"] for row in rows] == [row.name for row in done.rows]
    for step in (1, 2):
        model = sc.load(tmp_path / f"step-{step:02d}", net)
        assert evaluate(model, digits.validation).accuracy == pytest.approx(rows[3 * step - 1]["accuracy"])
        recovered = sc.load(tmp_path / f"step-{step:02d}" / "cut", net)
        assert evaluate(recovered, digits.validation).accuracy == pytest.approx(
            rows[3 * step - 2]["accuracy"]
        )
    again = iterate(net, X, digits, RECIPE, calibration=images, save=tmp_path, resume=True)
    assert same(again.model, done.model)
    assert again.rows == done.rows


def test_plans_lead_from_the_uncut_architecture(net, digits, images, tmp_path):
    first = sc.prune(net, X, ratio=0.2)
    done = iterate(first.model, X, digits, RECIPE, calibration=images, plan=first.plan, save=tmp_path / "run")
    done.save(tmp_path / "out")
    assert same(sc.load(tmp_path / "out", net), done.model)
    plan = load_plan(tmp_path / "run" / "step-02")
    assert plan.previous.previous == first.plan
    again = iterate(
        *(first.model, X, digits, RECIPE),
        calibration=images,
        plan=first.plan,
        save=tmp_path / "run",
        resume=True,
    )
    assert same(again.model, done.model)


def test_a_fine_tuning_that_harms_is_not_taken(net, digits, images):
    trained = fit(net, digits, dataclasses.replace(TUNE, epochs=4, lr=0.1, batch_size=32))
    harmful = dataclasses.replace(TUNE, lr=30.0, batch_size=512, momentum=0.0, weight_decay=0.0)
    recipe = dataclasses.replace(RECIPE, steps=1, ratio=0.1, finetune=harmful)
    done = iterate(trained.model, X, digits, recipe, calibration=images)
    _, recovered, tuned = done.rows
    assert tuned.kept_epoch == 0
    assert tuned.accuracy == recovered.accuracy
    assert "as before the fine-tuning" in str(tuned)


def test_a_teacher_teaches_every_fine_tuning(net, digits, images):
    plain = iterate(net, X, digits, RECIPE, calibration=images)
    taught = iterate(net, X, digits, RECIPE, calibration=images, distillation=Distillation(net))
    assert [row.accuracy for row in plain.rows[:2]] == [row.accuracy for row in taught.rows[:2]]
    assert not same(plain.model, taught.model)
    with pytest.raises(RequestError, match="channels change at each"):
        iterate(net, X, digits, RECIPE, distillation=Distillation(net, features={"feature.0": (0,)}))


def test_runs_are_neither_mixed_nor_overwritten_unasked(net, digits, images, tmp_path):
    (tmp_path / "mine").mkdir()
    small = dataclasses.replace(RECIPE, steps=1)
    iterate(net, X, digits, small, calibration=images, save=tmp_path)
    with pytest.raises(RequestError, match=r"already holds a run \(steps\.jsonl\)"):
        iterate(net, X, digits, small, calibration=images, save=tmp_path)
    other = dataclasses.replace(small, ratio=0.5)
    with pytest.raises(CheckpointError, match=r"ratio: 0\.75 there, 0.5 here"):
        iterate(net, X, digits, other, calibration=images, save=tmp_path, resume=True)
    with pytest.raises(RequestError, match="both asked for"):
        iterate(net, X, digits, small, calibration=images, save=tmp_path, resume=True, overwrite=True)
    with pytest.raises(RequestError, match="no folder"):
        iterate(net, X, digits, small, calibration=images, resume=True)
    iterate(net, X, digits, other, calibration=images, save=tmp_path, overwrite=True)
    assert json.loads((tmp_path / ROWS).read_text().splitlines()[0])["ratio"] == 0.5
    assert (tmp_path / "mine").is_dir()


def test_a_run_goes_on_with_its_own_criterion_and_images_only(net, digits, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=1, recover=(), criterion=sc.criterion("ln", n=3.0))
    options = {"save": tmp_path, "resume": True}
    iterate(net, X, digits, recipe, save=tmp_path)
    iterate(net, X, digits, dataclasses.replace(recipe, criterion=sc.criterion("ln", n=3.0)), **options)
    shuffled = dataclasses.replace(digits.train, pixels=digits.train.pixels.flip(0))
    others = {
        "criterion: ln": (X, digits, dataclasses.replace(recipe, criterion=sc.criterion("ln", n=1.0))),
        "criterion: .*<lambda>": (X, digits, dataclasses.replace(recipe, criterion=lambda view: view.size)),
        r"example inputs: \['float32 \[1, 1, 8, 8\]'\]": (X.expand(2, 1, 8, 8), digits, recipe),
        "training images: ": (X, dataclasses.replace(digits, train=shuffled), recipe),
    }
    for message, (example, data, asked) in others.items():
        with pytest.raises(CheckpointError, match=message):
            iterate(net, example, data, asked, **options)


def test_a_request_below_one_channel_is_told_and_gives_a_copy(net, digits):
    harmful = dataclasses.replace(TUNE, lr=30.0, batch_size=512, momentum=0.0, weight_decay=0.0)
    trained = fit(net, digits, dataclasses.replace(TUNE, epochs=2, lr=0.1, batch_size=32)).model
    recipe = Recipe(harmful, steps=1, ratio=0.0005, recover=(), check=False)
    with pytest.warns(NoEffectWarning, match="ratio=0.0005 asks for less than one"):
        done = iterate(trained, X, digits, recipe)
    assert done.rows[-1].kept_epoch == 0
    assert done.model is not trained
    assert same(done.model, trained)


def test_what_makes_no_sense_is_refused_before_any_work(net, digits, images, tmp_path):
    with pytest.raises(RequestError, match="recovery step 'refit' needs data"):
        iterate(net, X, digits, RECIPE, save=tmp_path / "a")
    with pytest.raises(RequestError, match="unknown recovery step 'refti'"):
        iterate(net, X, digits, dataclasses.replace(RECIPE, recover=("refti",)), calibration=images)
    assert not (tmp_path / "a").exists()
    with pytest.raises(RequestError, match="unknown criterion 'l9'"):
        iterate(net, X, digits, dataclasses.replace(RECIPE, criterion="l9"), calibration=images)


def test_a_run_that_was_refused_in_its_first_step_is_no_run(net, digits, images, tmp_path):
    stuck = dataclasses.replace(RECIPE, steps=1, min_keep=1.0)
    with pytest.raises(RequestError, match="prunes nothing"):
        iterate(net, X, digits, stuck, calibration=images, save=tmp_path)
    done = iterate(
        net, X, digits, dataclasses.replace(stuck, min_keep=0.1), calibration=images, save=tmp_path
    )
    assert len(done.rows) == 3
