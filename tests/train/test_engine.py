"""The engine on a task of its own: all that it can, for every task."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.penalise import penalties
from secateur.train import (
    DatasetPart,
    Distillation,
    Figures,
    FitConfig,
    Parts,
    Run,
    Task,
    fit,
    judge,
    last_folder,
    learning_rates,
    loop,
)
from secateur.train.checkpoint import read_checkpoint
from secateur.train.history import EpochRecord, find_best_epoch

CONFIG = FitConfig(epochs=4, lr=0.05, batch_size=8, quiet=True, device="cpu", keep="last")


class Line(Task):
    """A regression with two named losses and an error that is to be small."""

    noun = "points"
    lower_is_better = True

    def open(self, word, opening):
        generator = torch.Generator().manual_seed(opening.seed)
        made = []
        for count in (32, 16, 16):
            x = torch.randn(count, 3, generator=generator)
            made.append(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)))
        return Parts(word, *made)

    def loss(self, model, output, batch):
        apart = output - batch[1]
        return {"squared": apart.square().mean(), "absolute": 0.1 * apart.abs().mean()}

    def scores(self, output, batch):
        return {"error": (output - batch[1]).abs()[:, 0]}

    def distance(self, model, output, wanted, temperature):
        return (output - wanted).square().mean()


@pytest.fixture
def parts():
    from secateur.train import Opening

    return Line().open("line", Opening())


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))


def run(parts, model=None, **options):
    named = {name: options.pop(name) for name in ("penalty", "distillation") if name in options}
    hooks = {name: options.pop(name) for name in ("on_epoch",) if name in options}
    config = dataclasses.replace(CONFIG, **options)
    return fit(model or net(), parts, config, **named, **hooks, task=Line())


def test_a_task_of_ones_own_is_trained_validated_and_judged(parts):
    result = run(parts, epochs=20, keep="best")
    first, last = result.history[0], result.history[-1]
    assert list(last.losses) == ["squared", "absolute"]
    assert last.train_loss < 0.3 * first.train_loss
    errors = [record.figures.deciding for record in result.history]
    assert errors[result.best_epoch - 1] == min(errors)
    found = judge(result.model, parts.validation, Line(), device="cpu")
    assert found.values["error"] == pytest.approx(min(errors))
    assert (found.name, found.count, found.lower_is_better) == ("error", 16, True)
    assert "(squared " in str(last)
    assert "validation error" in str(last)


VARIANTS = [
    {"ema": 0.9},
    {"optimizer": "adamw", "ema": 0.5, "subdivisions": 3},
    {"clip": 0.1, "schedule": "poly", "burn_in": 0.3, "kernels_only": True},
    {"schedule": "steps", "steps": (0.5,), "scales": (0.1,), "validate_every": 3},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("keep", ["best", "last", "best-or-start"])
def test_every_run_resumes_bit_for_bit(parts, tmp_path, options, keep, equal_weights):
    class Killed(BaseException):
        pass

    def die(record):
        if record.epoch == 2:
            raise Killed

    whole = run(parts, **options, keep=keep)
    with pytest.raises(Killed):
        run(parts, **options, keep=keep, save=tmp_path, on_epoch=die)
    resumed = run(parts, net(7), **options, keep=keep, save=tmp_path, resume=True)
    assert equal_weights(whole.model, resumed.model)
    wholes, others = (
        [dataclasses.replace(one, seconds=0) for one in each.history] for each in (whole, resumed)
    )
    assert wholes == others
    assert not equal_weights(whole.model, run(parts, keep=keep).model)


def test_the_average_is_what_is_validated_kept_and_written(parts, tmp_path, equal_weights):
    result = run(parts, ema=0.9, save=tmp_path)
    checkpoint = read_checkpoint(last_folder(tmp_path))
    written = copy.deepcopy(result.model)
    written.load_state_dict(dict(checkpoint.weights))
    assert equal_weights(written, result.model)
    assert any(not torch.equal(checkpoint.raw[name], value) for name, value in checkpoint.weights.items())
    found = judge(result.model, parts.validation, Line(), device="cpu")
    assert found.deciding == pytest.approx(result.history[-1].figures.deciding)


def test_the_average_lags_by_its_decay(parts):
    """By hand: the average after each step of a loop of one's own."""
    own = Run(net(), Line(), parts, dataclasses.replace(CONFIG, ema=0.3))
    slow = copy.deepcopy(own.average[0].weight)
    for step, batch in enumerate(parts.train.batches(8, training=True)):
        own.step(batch)
        decay = min(0.3, (1 + step) / (10 + step))
        slow = decay * slow + (1 - decay) * own.model[0].weight
    torch.testing.assert_close(own.average[0].weight, slow)


def test_pieces_of_a_batch_add_up_to_its_gradient(parts, equal_weights):
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    one, other = (run(parts, plain, subdivisions=count).model for count in (1, 3))
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_step_is_longer_than_the_clipped_gradient_allows(parts):
    config = dataclasses.replace(CONFIG, clip=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")
    own = Run(net(), Line(), parts, config)
    before = [parameter.clone() for parameter in own.model.parameters()]
    own.step(next(iter(parts.train.batches(8, training=True))))
    moved = sum((a - b).square().sum() for a, b in zip(before, own.model.parameters(), strict=True)).sqrt()
    assert moved.item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_the_penalty_comes_after_the_unscaled_gradient_and_before_clipping(parts, monkeypatch):
    order = []

    class Noting:
        scales = parameters = ()
        strength = 0.0

        def step(self, progress=1.0):
            order.append(f"penalty {progress:g}")

        def value(self, progress=1.0):
            return 0.0

        def recipe(self):
            return {"penalty": "Noting"}

    config = dataclasses.replace(CONFIG, clip=1.0, epochs=1)
    own = Run(net(), Line(), parts, config, Noting())
    clip, precision = nn.utils.clip_grad_norm_, own.fabric.strategy.precision
    monkeypatch.setattr(loop.nn.utils, "clip_grad_norm_", lambda *a: (order.append("clip"), clip(*a)))
    monkeypatch.setattr(precision, "unscale_gradients", lambda *_: order.append("unscale"))
    own.optimizer.optimizer.register_step_pre_hook(lambda *_: order.append("step"))
    for batch in list(parts.train.batches(8, training=True))[:2]:
        own.step(batch)
    assert order == ["unscale", "penalty 0", "clip", "step", "unscale", "penalty 0.25", "clip", "step"]


def test_a_loop_of_ones_own_trains_as_fit_does(parts, equal_weights):
    fitted = run(parts, epochs=1, momentum=0.5)
    own = Run(net(), Line(), parts, dataclasses.replace(CONFIG, epochs=1, momentum=0.5))
    torch.manual_seed(CONFIG.seed * 1_000_003 + 1)
    losses = [own.step(batch) for batch in parts.train.batches(8, training=True, seed=0, epoch=1)]
    assert equal_weights(own.model, fitted.model)
    mean = sum(each["squared"] for each in losses) / len(losses)
    assert fitted.history[0].losses["squared"] == pytest.approx(mean)


def test_patience_ends_a_run_and_a_resumed_run_knows(parts, tmp_path, capsys):
    options = {"epochs": 50, "lr": 1e-12, "patience": 3, "quiet": False, "keep": "best"}
    frozen = net().eval()
    for module in frozen.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0
    result = run(parts, frozen, **options, save=tmp_path)
    errors = [record.figures.deciding for record in result.history]
    assert len(errors) == errors.index(min(errors)) + 1 + 3 < 50
    assert "stopped: 3 validations were no better" in capsys.readouterr().err
    again = run(parts, frozen, **options, save=tmp_path, resume=True)
    assert len(again.history) == len(errors)


def test_validations_are_as_rare_as_asked_and_the_last_epoch_has_one(parts):
    result = run(parts, epochs=5, validate_every=2)
    assert [record.figures is not None for record in result.history] == [False, True, False, True, True]
    with pytest.raises(ValueError, match="not validated after epoch 1"):
        result.history[0].validated  # noqa: B018 - it raises


def test_without_a_validation_part_the_last_epoch_is_kept(parts):
    class Half:
        train, validation = parts.train, None

    result = run(Half(), keep="best")
    assert result.kept_epoch == result.best_epoch == 4
    assert all(record.figures is None for record in result.history)


def test_of_equal_epochs_the_latest_is_the_best_and_what_is_no_number_never():
    def record(epoch, value):
        return EpochRecord(
            epoch, 0.1, {"loss": 1.0}, {}, None if value is None else Figures({"error": value}, 4, True)
        )

    def best(*values):
        return find_best_epoch(tuple(record(epoch, value) for epoch, value in enumerate(values, 1)))

    assert best(0.5, 0.2, 0.2, 0.3) == 3
    assert best(0.5, float("nan"), None) == 1
    assert best(float("nan"), 0.5) == 2
    assert best(None, None) == 2


def test_a_teacher_of_any_task_teaches_by_its_output_and_by_blocks(parts):
    teacher = run(parts, epochs=30).model.eval()
    deep = nn.Sequential(*teacher[:4], nn.Identity(), teacher[4])
    student = net(3)
    asked = Distillation(deep, weight=1.5, labels=0.1, blocks={"0": "0", "4": "5"})
    taught = run(parts, student, epochs=30, lr=0.02, optimizer="adamw", distillation=asked)
    assert taught.history[-1].distillation < 0.4 * taught.history[0].distillation
    asked = Distillation(deep, weight=0.0, labels=0.0, blocks={"0": "0"})
    near = run(parts, student, epochs=60, lr=0.02, optimizer="adamw", distillation=asked).model
    apart = [(net[0].weight - teacher[0].weight).square().mean() for net in (near, student)]
    assert apart[0] < 0.2 * apart[1]
    with pytest.raises(RequestError, match="the teacher has no layer '9'"):
        run(parts, distillation=Distillation(deep, blocks={"0": "9"}))
    with pytest.raises(
        RequestError, match=r"layer 0 of the student returns \[8, 8\], its teacher's \[8, 1\]"
    ):
        run(parts, distillation=Distillation(deep, blocks={"0": "5"}))


def test_a_task_without_a_distance_says_so(parts):
    class Silent(Line):
        distance = Task.distance

    with pytest.raises(RequestError, match="the task Silent says nothing about how far"):
        fit(net(), parts, CONFIG, distillation=Distillation(net()), task=Silent())
    features = Distillation(net(), weight=0.0, features={"0": tuple(range(8))})
    assert fit(net(), parts, CONFIG, distillation=features, task=Silent()).history[-1].distillation > 0


def test_a_model_that_does_not_take_the_samples_is_refused_in_the_tasks_words(parts):
    with pytest.raises(RequestError, match=r"the model does not accept points of shape \[2, 3\]"):
        run(parts, nn.Linear(5, 1))


def test_a_run_of_an_older_version_is_refused_in_a_sentence(parts, tmp_path):
    run(parts, save=tmp_path)
    path = last_folder(tmp_path) / "state.json"
    state = json.loads(path.read_text())
    state = {name: value for name, value in state.items() if name not in ("digest", "values")} | {
        "version": 1
    }
    path.write_text(json.dumps(state))
    with pytest.raises(
        CheckpointError, match="it has version 1, this secateur reads 2\n  start the run anew"
    ):
        run(parts, save=tmp_path, resume=True)


def test_a_figure_called_loss_must_be_a_number(parts):
    class Broken(Line):
        def scores(self, output, batch):
            return {"loss": output[:, 0] * float("nan")}

    with pytest.raises(SecateurError, match="the validation loss of epoch 1 is nan"):
        fit(net(), parts, CONFIG, task=Broken())


def test_a_dataset_of_pytorch_is_a_part_and_batches_follow_seed_and_epoch():
    part = DatasetPart(torch.utils.data.TensorDataset(torch.arange(9.0)))
    orders = [torch.cat([each[0] for each in part.batches(4, training=True, seed=s, epoch=e)]).tolist()
              for s, e in ((0, 1), (0, 1), (0, 2), (1, 1))]  # fmt: skip
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert len(orders[0]) == 8, "a last batch of one sample has no variance"


@pytest.mark.parametrize("schedule", ["constant", "poly", "steps"])
def test_warm_up_rises_and_the_schedule_takes_over(schedule):
    config = FitConfig(
        epochs=1, lr=0.2, schedule=schedule, burn_in=0.25, steps=(0.5, 0.75), scales=(0.1, 0.5)
    )
    rates = learning_rates(config, 100)
    assert rates[0] == pytest.approx(0.2 / 25**4)
    assert rates[:24] == sorted(rates[:24])
    expected = {"constant": 0.2, "poly": 0.2 * 0.2**4, "steps": 0.2 * 0.1 * 0.5}[schedule]
    assert rates[80] == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [{"ema": 1.0}, {"burn_in": -0.1}, {"clip": -1}, {"patience": -1}, {"subdivisions": 0}, {"steps": (0.5,)},
     {"optimizer": "lion"}, {"optimizer": "adamw", "nesterov": True}, {"evaluation_batch_size": 0}],
)  # fmt: skip
def test_options_without_sense_are_refused(options):
    with pytest.raises(RequestError):
        FitConfig(epochs=1, **options)


def test_sparsity_schedules_reach_the_scales_of_any_network(parts):
    def pulled(schedule):
        model = net()
        return run(parts, model, penalty=penalties["bn-l1"]([model[1].weight], 0.5, schedule)).model[1].weight

    constant, decayed = pulled("constant"), pulled("global-decay")
    assert constant.abs().sum() < decayed.abs().sum()
