"""Whatever happens, and wherever it fails, the user's model and process stay as they were."""

import copy
import gc
import importlib
import weakref

import nets
import nets_deep
import pytest
import snapshot
import torch
from torch import nn

import secateur as sc
from secateur.errors import NoEffectWarning, SecateurError

X = torch.randn(2, 3, 6, 6)
IMAGE = torch.randn(2, 3, 8, 8)


class Full(nets.Residual):
    """Has gradients, hooks, frozen parts, a buffer of its own, modes of its own, plain attributes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.note = {"list": [1, 2]}

    def forward(self, x):
        self.seen.add_(1)  # a buffer that every run writes
        self.last_shape = tuple(x.shape)
        return super().forward(x)


def full():
    model = nets.randomise(Full())
    model(X).sum().backward()
    model.inner.weight.requires_grad_(False)
    model.inner.register_forward_hook(lambda *_: None)
    model.head.register_full_backward_hook(lambda *_: None)
    model.norm.eval()
    return model


class Stop(Exception):  # noqa: N818
    """Raised on purpose."""


class Halting(BaseException):
    """Raised on purpose, as the keyboard does."""


def stop(*_, **__):
    raise Stop("on purpose")


def halt(*_, **__):
    raise Halting("on purpose")


CALLS = {
    "couple": lambda model, x: sc.couple(model, x),
    "measure": lambda model, x: sc.measure(model, x),
    "latency": lambda model, x: sc.latency(model, x, repeats=3, warmup=0),
    "prune": lambda model, x: sc.prune(model, x, ratio=0.5),
    "prune by macs": lambda model, x: sc.prune(model, x, macs=0.5, criterion="bn-scale", scope="local"),
    "prune at random": lambda model, x: sc.prune(model, x, ratio=0.5, criterion="random", seed=3),
    "recover": lambda model, x: sc.prune(model, x, ratio=0.5, recover=["absorb"], data=[x]),
}


@pytest.fixture
def unchanged():
    """Compares a model and the process before the test with those after."""
    held = []

    def watch(model):
        held.append((model, snapshot.of_model(model), snapshot.of_process()))
        return model

    yield watch
    assert held
    for model, before, process in held:
        assert snapshot.of_model(model) == before
        assert snapshot.of_process() == process


def test_a_snapshot_sees_what_it_is_for():
    model = full()
    changes = [
        lambda: model.norm.train(),
        lambda: model.stem.weight.data.mul_(2),
        lambda: model.stem.weight.grad.zero_(),
        lambda: model.stem.weight.requires_grad_(False),
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: model.seen.add_(1),
        lambda: setattr(model, "extra", 1),
        lambda: model.note["list"].append(3),
        lambda: setattr(model, "inner", copy.deepcopy(model.inner)),
        lambda: torch.rand(1),
    ]
    for change in changes:
        before = snapshot.of_model(model), snapshot.of_process()
        change()
        assert (snapshot.of_model(model), snapshot.of_process()) != before


@pytest.mark.parametrize("name", CALLS)
def test_no_call_changes_the_model_or_the_process(name, unchanged):
    model = full()
    if name == "latency":
        model.forward = super(Full, model).forward  # a timed run is a run of the model itself
    CALLS[name](unchanged(model), X)


def test_dropping_and_carrying_change_nothing(unchanged):
    model = unchanged(nets.randomise(nets_deep.SmallResNet()))
    optimizer = torch.optim.Adam(model.parameters())
    sc.carry(optimizer, sc.drop_blocks(model, IMAGE, count=1))


def test_plans_and_saved_models_change_nothing(unchanged, tmp_path):
    model = full()
    result = sc.prune(model, X, ratio=0.5)
    unchanged(model)
    unchanged(result.model)
    result.plan.apply(model)
    sc.load(sc.save(result, tmp_path / "half"), model)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_callers_grad_mode_is_left_and_does_not_matter(mode, unchanged):
    model = unchanged(full())
    with mode():
        before = snapshot.of_process()
        result = sc.prune(model, X, ratio=0.5)
        assert snapshot.of_process() == before
    result.model.train()(X).sum().backward()
    frozen = {"inner.weight"}
    for name, parameter in result.model.named_parameters():
        assert not parameter.is_inference()
        assert (parameter.grad is None) == (name in frozen)


def require_alike(got, expected):
    assert got.plan == expected.plan
    assert got.verdict.exact
    state = expected.model.state_dict()
    assert all(torch.equal(held, state[name]) for name, held in got.model.state_dict().items())


def test_the_callers_default_type_and_device_do_not_matter(unchanged):
    """The meta device stands for an accelerator: what were made there by mistake would have no values."""
    model, shallow = full(), nets_deep.SmallResNet()
    unchanged(model)
    unchanged(shallow)
    expected = sc.prune(model, X, ratio=0.5, criterion="random")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            got = sc.prune(model, X, ratio=0.5, criterion="random", recover=["absorb"])
            assert sc.drop_blocks(shallow, IMAGE, count=1).verdict.exact
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.plan == expected.plan
    assert got.verdict.exact


def test_the_callers_autocast_does_not_matter(unchanged):
    model = unchanged(full())
    expected = sc.prune(model, X, ratio=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = sc.prune(model, X, ratio=0.5)
    require_alike(got, expected)


# Failures.

STAGES = {
    "secateur.capture.recording.shadow": "capture",
    "secateur.capture.recorder.operator_name": "in the middle of a record",
    "secateur.capture.recording.require_tensors": "at the end of a record",
    "secateur.pipeline.couple_graph": "couple",
    "secateur.coupling.solve.leaves": "in the middle of coupling",
    "secateur.pipeline.score": "score",
    "secateur.pipeline.offer": "select",
    "secateur.pipeline.make_plan": "plan",
    "secateur.plans.plan.slice_model": "cut",
    "secateur.cut.slicing.slice_tensor": "in the middle of a cut",
    "secateur.coupling.recorded.record": "record of the cut",
    "secateur.settle.compare_records": "proof by shape",
    "secateur.proof.passes.run_in_step": "proof by number",
    "secateur.proof.lockstep.follow": "reference",
    "secateur.proof.comparison.measure": "in the middle of the proof",
    "secateur.proof.passes.output_tensors": "after the proof",
    "secateur.proof.models.randomised": "randomised parameters",
    "secateur.pipeline.cost_of": "cost",
}


def break_stage(monkeypatch, place, how):
    module, _, name = place.rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), name, how)


@pytest.mark.parametrize("how", [stop, halt])
@pytest.mark.parametrize("place", STAGES, ids=STAGES.values())
def test_a_failure_in_any_stage_leaves_everything_untouched(place, how, monkeypatch, unchanged):
    model = unchanged(full())
    break_stage(monkeypatch, place, how)
    with pytest.raises((Stop, Halting, SecateurError)):
        sc.prune(model, X, ratio=0.5)


DROP_STAGES = {
    "secateur.depth.drop.record_calls": "capture",
    "secateur.depth.drop.couple_graph": "couple",
    "secateur.depth.drop.find_blocks": "find",
    "secateur.depth.drop.score_blocks": "score",
    "secateur.plans.plan.drop": "drop",
    "secateur.depth.drop.number": "numbers",
    "secateur.cut.skip.shorten": "shorten",
    "secateur.depth.drop.record": "record of the dropped",
    "secateur.depth.drop.compare_dropped": "proof by shape",
    "secateur.depth.drop.verify_dropped": "proof by number",
    "secateur.depth.drop.verify_steps": "proof in steps",
    "secateur.depth.drop.cost_of": "cost",
}


@pytest.mark.parametrize("place", DROP_STAGES, ids=DROP_STAGES.values())
def test_a_failure_while_dropping_leaves_everything_untouched(place, monkeypatch, unchanged):
    model = unchanged(nets.randomise(nets_deep.SmallViT()))
    break_stage(monkeypatch, place, stop)
    with pytest.raises((Stop, SecateurError)):
        sc.drop_blocks(model, IMAGE, count=1)


@pytest.mark.parametrize("when", ["eval on fake tensors", "training", "real tensors", "the second run"])
def test_a_model_that_fails_by_itself_stays_untouched(when, unchanged):
    class Failing(Full):
        def forward(self, x):
            fake = isinstance(x, torch._subclasses.FakeTensor)
            if when == "eval on fake tensors" or (when == "real tensors" and not fake):
                raise Stop("the model's own failure")
            return super().forward(x)

    model = nets.randomise(Failing())
    if when == "training":
        model.auxiliary = nn.Linear(2, 2)  # unused in eval mode: a training run is tried
        sc.prune(unchanged(model), X, ratio=0.5)
    elif when == "the second run":
        sc.prune(unchanged(model), X, ratio=0.5)
    else:
        with pytest.raises((Stop, SecateurError), match="the model's own failure"):
            sc.prune(unchanged(model), X, ratio=0.5)


def test_a_failing_save_leaves_the_model_and_the_old_files(monkeypatch, unchanged, tmp_path):
    first, second = sc.prune(full(), X, ratio=0.5), sc.prune(full(), X, ratio=0.3)
    folder = sc.save(first, tmp_path / "half")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    unchanged(second.model)
    break_stage(monkeypatch, "secateur.write.checkpoint.save_file", stop)
    with pytest.raises((Stop, SecateurError)):
        sc.save(second, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# Nothing is shared between calls.


def test_two_calls_give_the_same_and_share_no_tensor():
    model = full()
    one, two = sc.prune(model, X, ratio=0.5), sc.prune(model, X, ratio=0.5)
    assert one.plan == two.plan
    assert one.verdict == two.verdict
    assert one.before == two.before
    places = [
        {held.untyped_storage().data_ptr() for held in [*net.parameters(), *net.buffers()]}
        for net in (model, one.model, two.model)
    ]
    assert not places[0] & places[1]
    assert not places[0] & places[2]
    assert not places[1] & places[2]
    for name, held in one.model.state_dict().items():
        assert torch.equal(held, two.model.state_dict()[name])
    with torch.no_grad():
        one.model.stem.weight.zero_()
    assert two.model.stem.weight.abs().sum() > 0
    assert model.stem.weight.abs().sum() > 0


def test_other_models_and_failures_in_between_do_not_matter():
    model = full()
    first = sc.prune(model, X, ratio=0.5)
    sc.prune(nets.Dense(), torch.randn(2, 3, 8, 8), ratio=0.3, criterion="random")
    with pytest.raises(SecateurError):
        sc.prune(nets.Residual(), torch.randn(2, 7), ratio=0.5)
    sc.drop_blocks(nets_deep.SmallViT(), IMAGE, count=1)
    second = sc.prune(model, X, ratio=0.5)
    assert second.plan == first.plan
    assert [group.name for group in second.groups] == [group.name for group in first.groups]


def test_nothing_keeps_a_model_alive():
    model = full()
    result = sc.prune(model, X, ratio=0.5, recover=["absorb"])
    dropped = nets_deep.SmallResNet()
    shallow = sc.drop_blocks(dropped, IMAGE, count=1)
    alive = [weakref.ref(held) for held in (model, result.model, dropped, shallow.model)]
    del model, result, dropped, shallow
    gc.collect()
    assert [held() for held in alive] == [None] * 4


def test_asking_for_nothing_gives_a_copy_that_shares_nothing():
    model = full()
    with pytest.warns(NoEffectWarning):
        result = sc.prune(model, X, ratio=0)
    assert result.model is not model
    assert torch.equal(result.model.stem.weight, model.stem.weight)
    assert result.model.stem.weight.data_ptr() != model.stem.weight.data_ptr()
