"""Carrying an optimizer: the next step on the cut model is the masked original's at the kept positions."""

import copy

import nets
import nets_deep
import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CarryWarning, RequestError

X = torch.randn(6, 3, 6, 6, dtype=torch.float64)
IMAGE = torch.randn(2, 3, 8, 8)


class Gated(nn.Module):
    """Hidden channels can be silenced from outside: the masked original, gradients included."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.keep = None

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(hidden if self.keep is None else hidden * self.keep)


MAKERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
    "adadelta": lambda params: torch.optim.Adadelta(params),
    "nadam": lambda params: torch.optim.NAdam(params),
    "rprop": lambda params: torch.optim.Rprop(params),
}


def train(model, optimizer, steps, x=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randn(6, 4, generator=generator, dtype=torch.float64) if x is None else x
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", MAKERS)
def test_the_next_steps_are_those_of_the_masked_original(name):
    model = Gated().double()
    optimizer = MAKERS[name](model.parameters())
    train(model, optimizer, 3)
    result = sc.prune(model, torch.zeros(1, 4, dtype=torch.float64), ratio=0.5)
    keep = list(result.plan.keep["first"])
    carried = sc.carry(optimizer, result)
    assert type(carried) is type(optimizer)

    model.keep = torch.from_numpy(np.isin(np.arange(8), keep))
    for seed in (1, 2):  # the second step shows that the state was carried on, too
        train(model, optimizer, 1, seed=seed)
        train(result.model, carried, 1, seed=seed)
        expected = {
            "first.weight": model.first.weight[keep],
            "first.bias": model.first.bias[keep],
            "last.weight": model.last.weight[:, keep],
            "last.bias": model.last.bias,
        }
        for key, parameter in result.model.named_parameters():
            torch.testing.assert_close(parameter, expected[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_with_the_same_gradients_is_the_same_at_every_kept_position(name):
    """Every tensor of a convolutional network, a flattened head included, with gradients given by hand."""
    model = nets.randomise(nets.Residual()).double()
    optimizer = MAKERS[name](model.parameters())
    train(model, optimizer, 2, X)
    result = sc.prune(model, X, ratio=0.5)
    carried = sc.carry(optimizer, result)
    fresh = MAKERS[name](copy.deepcopy(result.model).parameters())
    masks = {key: np.ix_(*result.plan.masks(key)) for key, _ in model.named_parameters()}
    after = dict(result.model.named_parameters())
    for key, parameter in model.named_parameters():
        parameter.grad = torch.randn_like(parameter)
        after[key].grad = parameter.grad[masks[key]].clone()
    optimizer.step()
    carried.step()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(after[key], parameter[masks[key]], rtol=1e-14, atol=1e-14)
    assert not fresh.state


def test_nothing_of_the_old_optimizer_changes_or_is_shared():
    model = Gated().double()
    optimizer = MAKERS["adam"](model.parameters())
    train(model, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    result = sc.prune(model, torch.zeros(1, 4, dtype=torch.float64), ratio=0.5)
    carried = sc.carry(optimizer, result)
    shared = {id(held) for state in optimizer.state.values() for held in state.values()}
    assert not shared & {id(held) for state in carried.state.values() for held in state.values()}
    train(result.model, carried, 2)
    carried.param_groups[0]["lr"] = 7.0
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        for key, held in state.items():
            assert torch.equal(after["state"][index][key], held), key


def test_groups_keep_their_order_options_and_names():
    model = nets_deep.SmallResNet()
    groups = [
        {"params": list(model.layer1[0].named_parameters()), "lr": 0.5, "initial_lr": 0.7},
        {"params": [("fc.weight", model.fc.weight), ("fc.bias", model.fc.bias)], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    result = sc.drop_blocks(model, IMAGE, blocks=["layer1.0"])
    carried = sc.carry(optimizer, result)
    assert [group["lr"] for group in carried.param_groups] == [0.5, 0.1]
    assert [group["weight_decay"] for group in carried.param_groups] == [0, 0.1]
    assert carried.param_groups[0]["initial_lr"] == 0.7
    assert carried.param_groups[0]["params"] == []
    assert carried.param_groups[1]["param_names"] == ["fc.weight", "fc.bias"]
    assert carried.param_groups[1]["params"] == [result.model.fc.weight, result.model.fc.bias]
    assert carried.defaults == optimizer.defaults
    result.model(IMAGE).sum().backward()
    carried.step()
    assert calls == [1]


def test_parameters_of_dropped_blocks_leave_and_the_others_keep_their_state():
    model = nets_deep.SmallViT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 2, IMAGE)
    result = sc.drop_blocks(model, IMAGE, blocks=["layers.0", "layers.1"])
    carried = sc.carry(optimizer, result)
    assert carried.param_groups[0]["params"] == list(result.model.parameters())
    names = {result.plan.renamed(name): held for name, held in model.named_parameters()}
    assert names["layers.0.down.weight"] is not model.layers[0].down.weight  # it has moved up
    for name, parameter in result.model.named_parameters():
        for key, held in optimizer.state[names[name]].items():
            assert torch.equal(carried.state[parameter][key], held)
    assert len(carried.state) == len(list(result.model.parameters()))
    train(result.model, carried, 1, IMAGE)


def test_frozen_parameters_stay_out_and_ties_are_carried_once():
    model = nets.Tied().double()
    model.last.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    result = sc.prune(model, torch.zeros(1, 4, dtype=torch.float64), ratio=0.5)
    carried = sc.carry(optimizer, result)
    held = carried.param_groups[0]["params"]
    assert len(held) == len(optimizer.param_groups[0]["params"])
    assert not any(parameter is result.model.last.weight for parameter in held)
    assert carried.state[result.model.two.weight]["momentum_buffer"].shape == (4, 4)
    train(result.model, carried, 1)


def test_an_optimizer_without_state_is_carried_without():
    model = Gated().double()
    result = sc.prune(model, torch.zeros(1, 4, dtype=torch.float64), ratio=0.5)
    carried = sc.carry(torch.optim.Adam(model.parameters(), lr=0.3), result)
    assert not carried.state
    assert carried.param_groups[0]["lr"] == 0.3
    train(result.model, carried, 1)


def test_a_scheduler_goes_on_with_the_carried_optimizer():
    model = Gated().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    twin = torch.optim.SGD(Gated().parameters(), lr=1.0)
    other = torch.optim.lr_scheduler.CosineAnnealingLR(twin, 10)
    for _ in range(3):
        train(model, optimizer, 1)
        twin.step()
        scheduler.step()
        other.step()
    result = sc.prune(model, torch.zeros(1, 4, dtype=torch.float64), ratio=0.5)
    carried = sc.carry(optimizer, result)
    scheduler.optimizer = carried
    for _ in range(3):
        train(result.model, carried, 1)
        twin.step()
        scheduler.step()
        other.step()
        assert carried.param_groups[0]["lr"] == twin.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["lr"] > carried.param_groups[0]["lr"]


def test_the_chain_of_two_cuts_is_carried_step_by_step():
    model = nets_deep.SmallResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 1, IMAGE)
    first = sc.drop_blocks(model, IMAGE, count=1)
    second = sc.prune(first.model, IMAGE, ratio=0.5)
    carried = sc.carry(sc.carry(optimizer, first), second)
    for parameter in second.model.parameters():
        assert carried.state[parameter]["momentum_buffer"].shape == parameter.shape
    train(second.model, carried, 1, IMAGE)


# State that has another shape than its parameter.


class Odd(torch.optim.SGD):
    """Keeps state as it is told to."""

    make = staticmethod(lambda parameter: {})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].update(self.make(parameter))


def carry_odd(make, sizes=(4, 8, 3)):
    inputs, hidden, outputs = sizes
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    optimizer = Odd(model.parameters(), lr=0.1)
    optimizer.make = make
    optimizer.step()
    result = sc.prune(model, torch.zeros(1, inputs), ratio=0.5)
    carried = sc.carry(optimizer, result)
    keep = list(result.plan.keep["0"])
    return (
        optimizer.state[model[0].weight],
        carried.state[result.model[0].weight],
        keep,
        carried.state[result.model[2].bias],
    )


def factored(parameter):
    rows = torch.randn(parameter.shape[0], 1) if parameter.dim() > 1 else torch.randn(1)
    cols = torch.randn(1, parameter.shape[1]) if parameter.dim() > 1 else torch.randn(1)
    return {"row_var": rows, "col_var": cols, "step": torch.tensor(3.0)}


def test_factored_state_that_keeps_its_dims_follows_them():
    """As in torch.optim.Adafactor: [rows, 1] and [1, columns]."""
    before, after, keep, bias = carry_odd(factored)
    assert torch.equal(after["row_var"], before["row_var"][keep])
    assert torch.equal(after["col_var"], before["col_var"])
    assert after["step"] == 3
    assert bias["step"] == 3


def test_factored_state_without_some_dims_follows_where_that_is_clear():
    """As in Adafactor of transformers: [rows] and [columns]."""
    make = lambda p: {"row": torch.randn(p.shape[0]), "col": torch.randn(p.shape[-1]), "n": 3}  # noqa: E731
    before, after, keep, _ = carry_odd(make)
    assert torch.equal(after["row"], before["row"][keep])
    assert torch.equal(after["col"], before["col"])
    assert after["n"] == 3


def test_state_that_could_follow_two_dims_starts_anew_with_a_warning():
    make = lambda p: {"row": torch.randn(p.shape[0])}  # noqa: E731
    with pytest.warns(
        CarryWarning, match=r"state of 0.weight starts anew: it is not clear how 'row' \(shape"
    ):
        _, after, _, bias = carry_odd(make, sizes=(8, 8, 3))
    assert not after
    assert bias["row"].shape == (3,)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: {"flat": torch.randn(p.numel() + 7)},
        lambda p: {"history": [torch.randn(p.shape)]},
        lambda p: {"code": torch.zeros(p.shape, dtype=torch.uint8)},
    ],
    ids=["another shape", "a list", "8-bit codes"],
)
def test_state_that_cannot_be_cut_starts_anew_with_a_warning(make):
    with pytest.warns(CarryWarning, match="starts anew: it is not clear how"):
        _, after, _, _ = carry_odd(make)
    assert not after


def test_adafactor_of_pytorch_goes_on():
    model = Gated()
    optimizer = torch.optim.Adafactor(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
    carried = sc.carry(optimizer, result)
    keep = list(result.plan.keep["first"])
    before = optimizer.state[model.first.weight]
    after = carried.state[result.model.first.weight]
    assert torch.equal(after["row_var"], before["row_var"][keep])
    assert torch.equal(after["col_var"], before["col_var"])
    result.model(torch.randn(2, 4)).sum().backward()
    carried.step()


def test_lbfgs_starts_anew_with_a_warning():
    """Its history is one flat vector of all parameters."""
    model = Gated().double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x = torch.randn(5, 4, dtype=torch.float64)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    result = sc.prune(model, x, ratio=0.5)
    with pytest.warns(CarryWarning, match="first.weight starts anew"):
        carried = sc.carry(optimizer, result)
    assert not carried.state


# What cannot be carried.


def test_an_optimizer_of_another_model_is_refused():
    result = sc.prune(Gated(), torch.zeros(1, 4), ratio=0.5)
    with pytest.raises(RequestError, match=r"group 0 of the optimizer trains a parameter of shape \[8, 4\]"):
        sc.carry(torch.optim.SGD(Gated().parameters(), lr=0.1), result)
    with pytest.raises(RequestError, match=r"optimizer is Gated, not a torch\.optim\.Optimizer"):
        sc.carry(Gated(), result)


def test_a_changed_model_is_refused():
    model = Gated()
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
    result.model.first = nn.Linear(4, 5)
    with pytest.raises(
        RequestError, match=r"first.weight is \[5, 4\] .* the plan leaves \[4, 4\] of \[8, 4\]"
    ):
        sc.carry(torch.optim.SGD(model.parameters(), lr=0.1), result)
    del result.model.first
    with pytest.raises(RequestError, match=r"has no parameter first\.weight"):
        sc.carry(torch.optim.SGD(model.parameters(), lr=0.1), result)


def test_a_parameter_that_is_new_in_the_cut_model_is_named():
    model = Gated()
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
    result.model.extra = nn.Parameter(torch.zeros(3))
    with pytest.warns(CarryWarning, match="no group of the optimizer trains extra"):
        sc.carry(torch.optim.SGD(model.parameters(), lr=0.1), result)


def test_an_optimizer_that_cannot_be_made_from_its_options_is_refused():
    class Needy(torch.optim.SGD):
        def __init__(self, params, secret, **options):
            super().__init__(params, **options)

    model = Gated()
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
    with pytest.raises(
        RequestError, match=r"cannot make a Needy from the options of the given one: .*secret"
    ):
        sc.carry(Needy(model.parameters(), "x", lr=0.1), result)
