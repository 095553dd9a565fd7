import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.train import Distillation, FitConfig, distil, evaluate, fit, matching_channels, soft_targets

QUIET = FitConfig(epochs=2, lr=0.05, batch_size=16, quiet=True, device="cpu")
X = torch.zeros(1, 1, 6, 6)


def test_soft_targets_equal_a_sum_written_out_by_hand():
    torch.manual_seed(0)
    student, teacher, temperature = torch.randn(5, 3).double(), torch.randn(5, 3).double(), 2.5
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(value / temperature) for value in theirs]
        q = [math.exp(value / temperature) for value in ours]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / 5
    assert soft_targets(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_at_a_high_temperature_it_matches_centred_logits():
    """Hinton et al., equation 4: the gradient tends to (z - v) / N, whatever the temperature."""
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 4).double().requires_grad_(), torch.randn(1, 4).double()
    soft_targets(student, teacher, 1e4).backward()
    apart = (student - student.mean()) - (teacher - teacher.mean())
    assert torch.allclose(student.grad, apart.detach() / 4, atol=1e-3)


def test_a_student_that_equals_its_teacher_is_at_no_distance(splits, narrow):
    narrow.dropout.p = 0.0
    frozen = copy.deepcopy(narrow).eval()
    config = dataclasses.replace(QUIET, epochs=1, lr=1e-12, weight_decay=0.0)
    features = {"deep": tuple(range(8)), "head": tuple(range(4))}
    narrow.norm = nn.Identity()  # batch statistics would differ
    frozen.norm = nn.Identity()
    result = fit(narrow, splits, config, distillation=Distillation(frozen, features=features))
    assert result.history[0].distillation == pytest.approx(0.0, abs=1e-6)


def test_a_teacher_alone_teaches_without_labels(splits, narrow, make_narrow):
    teacher = fit(narrow, splits, dataclasses.replace(QUIET, epochs=20, lr=0.2)).model
    scrambled = dataclasses.replace(
        splits, train=dataclasses.replace(splits.train, labels=splits.train.labels.flip(0))
    )
    torch.manual_seed(5)
    config = dataclasses.replace(QUIET, epochs=20, lr=0.2, keep="last")
    alone = fit(make_narrow(), scrambled, config, distillation=Distillation(teacher, weight=1.0))
    assert evaluate(teacher, splits.test).accuracy > 0.9
    assert evaluate(alone.model, splits.test).accuracy > 0.9
    assert alone.history[-1].distillation < 0.5 * alone.history[0].distillation
    assert "+ teacher" in str(alone.history[0])


def test_the_weight_shares_out_the_loss(splits, narrow, equal_weights):
    teacher = copy.deepcopy(narrow)
    plain = fit(narrow, splits, QUIET)
    without = fit(narrow, splits, QUIET, distillation=Distillation(teacher, weight=0.0))
    assert equal_weights(plain.model, without.model)
    taught = fit(narrow, splits, QUIET, distillation=Distillation(teacher, weight=0.5))
    assert not equal_weights(plain.model, taught.model)


def cut_of(model):
    return sc.prune(model, X, keep={"conv": [0, 2, 5], "deep": [1, 2, 3, 6]})


def test_features_hold_the_kept_channels_to_the_teachers(splits, narrow):
    cut = cut_of(narrow)
    features = matching_channels(cut.plan, narrow, ["norm", "deep"])
    assert features == {"norm": (0, 2, 5), "deep": (1, 2, 3, 6)}
    config = dataclasses.replace(QUIET, epochs=6, keep="last", lr=0.02)
    asked = Distillation(narrow, weight=0.0, features=features)
    near = fit(cut.model, splits, config, distillation=asked)
    far = fit(cut.model, splits, config)
    distances = [apart(one.model, narrow, features, splits) for one in (near, far)]
    assert distances[0] < 0.3 * distances[1]
    assert near.history[-1].distillation < near.history[0].distillation


@pytest.mark.parametrize("layer", ["norm", "deep"])
def test_features_are_what_the_layer_returns_also_before_an_operator_in_place(narrow, layer):
    class InPlace(type(narrow)):
        def forward(self, images):
            hidden = torch.relu_(self.norm(self.conv(images)))
            return self.head(torch.relu_(self.deep(hidden)).mean((2, 3)))

    images, module = torch.randn(4, 1, 6, 6), narrow.eval().get_submodule(layer)
    expected = []
    handle = module.register_forward_hook(lambda _, __, out: expected.append(out.detach().clone()))
    narrow.__class__ = InPlace
    with distil._heard([module]) as heard:
        narrow(images)
    handle.remove()
    assert expected[0].min() < 0
    assert torch.equal(heard[module].detach(), expected[0])
    assert heard[module].requires_grad


def apart(model, teacher, features, splits):
    """The mean relative distance of the deepest matched layer, in eval mode."""
    images, _ = next(iter(splits.validation.batches(64)))
    seen = {}
    for who, net in (("student", model), ("teacher", teacher)):
        net = copy.deepcopy(net).eval()
        net.deep.register_forward_hook(lambda _, __, out, who=who: seen.update({who: out.detach()}))
        net(images)
    wanted = seen["teacher"][:, list(features["deep"])]
    return float((seen["student"] - wanted).square().mean() / wanted.square().mean())


def test_no_hook_is_left_on_any_model_even_after_an_error(splits, narrow, monkeypatch):
    cut = cut_of(narrow)
    asked = Distillation(narrow, features=matching_channels(cut.plan, narrow, ["deep"]))
    result = fit(cut.model, splits, QUIET, distillation=asked)
    for model in (result.model, cut.model, narrow):
        assert not any(module._forward_hooks for module in model.modules())

    students = []
    original = distil.Distiller.__init__

    def noting(self, distillation, student, *args):
        students.append(student)
        original(self, distillation, student, *args)

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(distil.Distiller, "__init__", noting)
    monkeypatch.setattr(distil, "soft_targets", broken)
    with pytest.raises(RuntimeError, match="broken"):
        fit(cut.model, splits, QUIET, distillation=asked)
    assert not any(module._forward_hooks for module in students[0].modules())


def test_the_teacher_is_untouched(splits, narrow, make_narrow, equal_weights):
    teacher = make_narrow().train()
    twin = copy.deepcopy(teacher)
    fit(narrow, splits, QUIET, distillation=Distillation(teacher))
    assert equal_weights(teacher, twin)
    assert teacher.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_a_taught_run_resumes_with_the_same_teacher_only(splits, narrow, tmp_path, equal_weights):
    teacher = copy.deepcopy(narrow)
    config = dataclasses.replace(QUIET, epochs=3)
    whole = fit(narrow, splits, config, distillation=Distillation(teacher))
    saved = dataclasses.replace(config, save=tmp_path)

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(narrow, splits, saved, distillation=Distillation(teacher), on_epoch=stop)
    again = dataclasses.replace(saved, resume=True)
    with pytest.raises(RequestError, match=r"temperature: 4\.0 in the checkpoint, 2.0 asked for"):
        fit(narrow, splits, again, distillation=Distillation(teacher, temperature=2.0))
    with pytest.raises(RequestError, match=r"teacher: .* in the checkpoint, None asked for"):
        fit(narrow, splits, again)
    resumed = fit(narrow, splits, again, distillation=Distillation(teacher))
    assert equal_weights(whole.model, resumed.model)
    assert [one.distillation for one in resumed.history] == [one.distillation for one in whole.history]


def test_a_penalty_and_a_teacher_go_together(splits, tiny_vgg):
    from secateur.penalise import penalties

    penalty = penalties["group-lasso"].of(tiny_vgg, sc.couple(tiny_vgg, X), 0.01)
    result = fit(tiny_vgg, splits, QUIET, penalty, Distillation(copy.deepcopy(tiny_vgg)))
    assert result.history[0].penalty > result.history[-1].penalty > 0
    assert result.history[0].distillation > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"weight": 1.5}, r"weight of the teacher is 1\.5"),
        ({"weight": -0.1}, "weight of the teacher is -0.1"),
        ({"feature_weight": -1.0}, "weight of the features is -1"),
    ],
)
def test_senseless_numbers_are_refused(narrow, options, message):
    with pytest.raises(RequestError, match=message):
        Distillation(narrow, **options)


def test_a_teacher_that_does_not_fit_is_refused(splits, narrow, make_narrow):
    with pytest.raises(RequestError, match="teacher does not accept images of shape"):
        fit(narrow, splits, QUIET, distillation=Distillation(nn.Linear(5, 4)))
    with pytest.raises(RequestError, match="teacher tells 7 classes apart, the student 4"):
        fit(narrow, splits, QUIET, distillation=Distillation(make_narrow(outputs=7)))
    with pytest.raises(RequestError, match="the student has no layer 'gone'"):
        fit(narrow, splits, QUIET, distillation=Distillation(make_narrow(), features={"gone": (0,)}))
    with pytest.raises(RequestError, match=r"layer deep of the student returns \[16, 8, 6, 6\]"):
        fit(narrow, splits, QUIET, distillation=Distillation(make_narrow(), features={"deep": (0, 1)}))
