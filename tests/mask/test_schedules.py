"""Laws of schedules, and what drives them."""

import copy
import itertools
import types

import pytest
import torch
from torch import nn

from secateur import mask
from secateur.mask.schedule import schedules

X = torch.linspace(-1, 1, 64).view(8, 8)
MONOTONE = [name for name in schedules if name != "dense-sparse-dense"]


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def train(model, steps, *steppers, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X) - X).square().mean().backward()
        optimizer.step()
        for stepper in steppers:
            stepper.step()


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.9), (0.3, 0.8), (0.5, 0.5)])
def test_schedules_run_monotonically_to_their_end(name, start, end):
    values = [schedules[name](at / 50, start, end) for at in range(51)]
    assert values[-1] == pytest.approx(end)
    assert name == "one-shot" or values[0] == pytest.approx(start, abs=0.01)
    assert all(one <= two + 1e-12 for one, two in itertools.pairwise(values))
    assert all(start - 1e-12 <= value <= end + 1e-12 for value in values)


@pytest.mark.parametrize("name", MONOTONE)
def test_training_reaches_the_sparsity_and_keeps_it(name):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    gradual = mask.Gradual(
        model, sparsity=0.75, schedule=name, begin=2, end=12, every=3, scope="global", optimizer=optimizer
    )
    train(model, 20, gradual, optimizer=optimizer)
    assert gradual.is_done
    assert gradual.sparsity.sparsity == 0.75
    assert mask.report(model).sparsity == 0.75
    assert "done" in str(gradual)


def test_masks_are_lifted_in_the_last_third_of_dense_sparse_dense():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    gradual = mask.Gradual(
        model, sparsity=0.5, schedule="dense-sparse-dense", end=9, optimizer=optimizer, scope="global"
    )
    seen = []
    for _ in range(10):
        train(model, 1, gradual, optimizer=optimizer)
        seen.append(gradual.sparsity.sparsity)
    assert seen == [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 0, 0]
    train(model, 1, optimizer=optimizer)
    assert mask.report(model).sparsity == 0


def test_a_run_goes_on_from_a_checkpoint():
    whole = small()
    gradual = mask.Gradual(whole, sparsity=0.8, end=10, scope="global")
    train(whole, 4, gradual)
    resumed = small()
    other = mask.Gradual(resumed, sparsity=0.8, end=10, scope="global")
    mask.load_state_dict(resumed, copy.deepcopy(whole.state_dict()))
    other.load_state_dict(gradual.state_dict())
    assert other.steps == 4
    for one, stepper in ((whole, gradual), (resumed, other)):
        train(one, 8, stepper, optimizer=torch.optim.SGD(one.parameters(), lr=0.05))
    assert torch.equal(whole(X), resumed(X))


def test_rigl_keeps_the_count_of_every_tensor_and_grows_where_the_gradient_is():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rigl = mask.RigL(model, optimizer, sparsity=0.6, end=40, every=5)
    counts = [int(model[at].weight_mask.sum()) for at in (0, 2)]
    before = mask.masks_of(model)
    for step in range(1, 60):
        optimizer.zero_grad()
        (model(X) - X).square().mean().backward()
        if step == 5:
            dense = copy.deepcopy(model)
            mask.remove(dense)
            dense.zero_grad()
            (dense(X) - X).square().mean().backward()
            gradient, kept = dense[0].weight.grad, model[0].weight_mask != 0
        optimizer.step()
        changed = rigl.step()
        assert changed == (step % 5 == 0 and step < 40)
        assert [int(model[at].weight_mask.sum()) for at in (0, 2)] == counts
        if step == 5:
            grown = (model[0].weight_mask != 0) & ~kept
            rest = (model[0].weight_mask == 0) & ~kept
            assert bool(grown.any())
            assert gradient[grown].abs().min() >= gradient[rest].abs().max()
            assert bool((model[0].weight_orig[grown] == 0).all())
            buffer = optimizer.state[model[0].weight_orig]["momentum_buffer"]
            assert bool((buffer[grown] == 0).all())
    assert any(bool((now != before[name]).any()) for name, now in mask.masks_of(model).items())


def make(model, optimizer):
    return mask.Gradual(model, sparsity=0.5, end=2, optimizer=optimizer, scope="global")


def test_a_transformers_callback_masks_and_is_used_again():
    pytest.importorskip("transformers")
    from secateur.mask.callbacks.transformers import MaskCallback

    callback, model = MaskCallback(make), small()
    state = types.SimpleNamespace(global_step=0, stateful_callbacks={})
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        callback.on_train_begin(None, state, None, model=model, optimizer=optimizer)
        for _ in range(4):
            train(model, 1, optimizer=optimizer)
            callback.on_step_end(None, state, None, model=model, optimizer=optimizer)
        assert mask.report(model).sparsity == 0.5


def test_ultralytics_callbacks_keep_the_averaged_masks_exact():
    from secateur.mask.callbacks.ultralytics import MaskCallbacks

    class Average:
        """As ultralytics' ModelEMA: every floating tensor of the state dict is averaged by name."""

        def __init__(self, model):
            self.ema = copy.deepcopy(model).eval()

        def update(self, model):
            values = model.state_dict()
            for name, value in self.ema.state_dict().items():
                value.mul_(0.9).add_(values[name].detach(), alpha=0.1)

    model = small()
    trainer = types.SimpleNamespace(model=model, ema=Average(model))
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    events = {}
    callbacks = MaskCallbacks(make)
    callbacks.add_to(types.SimpleNamespace(add_callback=events.__setitem__))
    events["on_pretrain_routine_end"](trainer)
    for _ in range(4):
        train(model, 1, optimizer=trainer.optimizer)
        trainer.ema.update(model)
        events["on_train_batch_end"](trainer)
    assert mask.report(model).sparsity == 0.5
    for name, now in mask.masks_of(trainer.ema.ema).items():
        assert torch.equal(now, mask.masks_of(model)[name])
    assert mask.report(trainer.ema.ema).sparsity == 0.5
