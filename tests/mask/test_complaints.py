"""What users of `torch.nn.utils.prune` have complained about, each as a test."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from secateur import errors, mask


def small():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


X = torch.linspace(-1, 1, 30).view(5, 6)


def train_step(model, optimizer):
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()


def test_deepcopy_of_a_pruned_model_works_at_any_moment():
    model = small()
    torch_prune.l1_unstructured(theirs := small()[0], "weight", 0.5)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(theirs)
    mask.prune(model, amount=0.5)
    model(X).sum().backward()
    copied = copy.deepcopy(model)
    assert torch.equal(copied(X), model(X))
    assert copied[0].weight_orig is not model[0].weight_orig
    with torch.no_grad():
        copied[0].weight_orig.add_(1.0)
        copied[0].weight_mask.fill_(1.0)
    assert not torch.equal(copied(X), model(X))
    assert int((model[0].weight == 0).sum()) == 24
    again = copy.deepcopy(copy.deepcopy(copied))
    assert torch.equal(again(X), copied(X))


def test_the_copy_trains_its_own_parameters():
    model = small()
    mask.prune(model, amount=0.5)
    copied = copy.deepcopy(model)
    copied[0].weight.sum().backward()
    assert model[0].weight_orig.grad is None
    assert torch.equal(copied[0].weight_orig.grad, copied[0].weight_mask)


def test_masks_of_torch_can_be_copied_once_adopted():
    model = small()
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    torch_prune.random_unstructured(model[0], "weight", 0.5)
    copied = copy.deepcopy(mask.adopt(model))
    assert torch.equal(copied(X), model(X))


def test_a_whole_model_is_pickled_and_copied_again():
    model = small()
    mask.prune(model, amount=0.5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(X), model(X))
    assert torch.equal(copy.deepcopy(loaded)(X), model(X))


@pytest.mark.parametrize(
    "prepare", [lambda model: None, lambda model: mask.prune(model, "random", amount=0.9)]
)
def test_state_dicts_with_masks_load_into_masked_and_plain_models(prepare):
    model, other = small(), small()
    mask.prune(model, amount=0.5)
    prepare(other)
    mask.load_state_dict(other, model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)
    assert torch.equal(other(X), model(X))
    plain = small()
    plain.load_state_dict(mask.baked(model.state_dict()))
    assert torch.equal(plain(X), model(X))
    mask.load_state_dict(other, plain.state_dict())
    assert not mask.is_pruned(other)
    assert torch.equal(other(X), model(X))


def test_state_dicts_of_torch_masks_load_too():
    model = small()
    torch_prune.l1_unstructured(model[2], "weight", 0.5)
    assert torch.equal(mask.load_state_dict(small(), model.state_dict())(X), model(X))


def test_structured_pruning_takes_the_bias():
    model = small()
    mask.prune(model, "l2", structure="structured", amount=0.25, select="0")
    gone = (model[0].weight_mask == 0).all(1)
    assert int(gone.sum()) == 2
    assert torch.equal(model[0].bias_mask == 0, gone)
    assert bool((model[0](X)[:, gone] == 0).all())
    mask.prune(other := small(), "l2", structure="structured", amount=0.25, select="0", with_bias=False)
    assert not hasattr(other[0], "bias_mask")


def test_transposed_convolutions_have_their_outputs_in_dim_1():
    layer = nn.ConvTranspose2d(4, 6, 3)
    mask.prune(layer, "l1", structure="structured", dim=1, amount=2)
    assert int((layer.bias_mask == 0).sum()) == 2
    assert bool((layer(torch.randn(1, 4, 5, 5))[:, layer.bias_mask == 0] == 0).all())


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda weights: torch.optim.AdamW(weights, lr=0.01),
    ],
)
def test_momentum_does_not_revive_masked_weights(make):
    model = small()
    optimizer = make(model.parameters())
    for _ in range(3):
        train_step(model, optimizer)
    mask.prune(model, amount=0.5)
    gone = model[0].weight_mask == 0
    for _ in range(3):
        train_step(model, optimizer)
    model(X)
    assert bool((model[0].weight[gone] == 0).all())
    untold = copy.deepcopy((model, optimizer))
    mask.remove(untold[0])
    assert bool((untold[0][0].weight[gone] == 0).all())
    for one, memory, forgets in ((*untold, False), (model, optimizer, True)):
        if forgets:
            mask.remove(one, optimizer=memory)
        for parameter in one.parameters():
            parameter.grad = torch.zeros_like(parameter)
        memory.step()
        assert bool((one[0].weight[gone] == 0).all()) is forgets


def test_rewinding_really_rewinds():
    model = small()
    start = mask.Snapshot(model)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        train_step(model, optimizer)
    mask.prune(model, scope="global", amount=0.5)
    train_step(model, optimizer)
    kept = mask.masks_of(model)
    start.rewind(model, optimizer)
    assert not optimizer.state
    assert all(torch.equal(kept[name], now) for name, now in mask.masks_of(model).items())
    mask.prune(before, "custom", masks=kept)
    assert torch.equal(model(X), before(X))
    assert torch.equal(model[0].weight, before[0].weight)


def test_tickets_go_back_to_where_they_began_and_are_found_in_rounds():
    model = small()
    start = copy.deepcopy(model)
    seen = []

    def train(trained):
        seen.append(mask.report(trained).sparsity)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        train_step(trained, optimizer)

    found = mask.find_ticket(model, train, sparsity=0.75, rounds=2, scope="global")
    assert seen == [0.0, 0.5]
    assert found.sparsity == 0.75
    assert torch.equal(model[0].weight, start[0].weight * model[0].weight_mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masks_work_under_autocast(dtype):
    model = small()
    mask.prune(model, amount=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = model(X).float().square().sum()
        loss.backward()
        optimizer.step()
    model(X)
    assert int((model[0].weight == 0).sum()) == 24
    assert model[0].weight_orig.grad[model[0].weight_mask == 0].count_nonzero() == 0


def test_tied_weights_stay_tied_and_get_one_mask():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    model = Tied()
    mask.prune(model, amount=0.5)
    assert model.one.weight_orig is model.two.weight_orig
    assert torch.equal(model.one.weight, model.two.weight)
    mask.prune(model, scope="global", amount=0.5)
    assert torch.equal(model.one.weight_mask, model.two.weight_mask)
    assert int(model.one.weight_mask.sum()) == 4


def test_attention_projections_that_are_never_called_see_their_mask():
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    mask.prune(model, amount=0.5, select=["out_proj", "in_proj_weight"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randn(2, 3, 8)
    for _ in range(3):  # without a renewed product the second backward pass fails
        optimizer.zero_grad()
        model(x, x, x)[0].square().sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        got = model(x, x, x)[0]
        baked = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        baked.load_state_dict(mask.baked(model.state_dict()))
        assert torch.allclose(got, baked(x, x, x)[0], atol=1e-6)
    assert int((model.out_proj.weight == 0).sum()) == 32
    assert torch.equal(copy.deepcopy(model)(x, x, x)[0], model(x, x, x)[0])


def test_a_long_schedule_does_not_pile_up_masks():
    layer = nn.Linear(30, 30)
    gradual = mask.Gradual(layer, sparsity=0.9, end=200)
    for _ in range(202):
        gradual.step()
    held = sum(tensor.numel() for tensor in [*layer.parameters(), *layer.buffers()])
    assert held == 900 + 900 + 30
    hook = next(iter(layer._forward_pre_hooks.values()))
    assert not any(isinstance(value, torch.Tensor) for method in hook for value in vars(method).values())


def test_requests_that_make_no_sense_are_refused():
    model = small()
    for arguments, text in (
        ({}, "neither amount nor sparsity"),
        ({"amount": 1.5}, "amount is 1.5"),
        ({"amount": 1000}, "amount is 1,000"),
        ({"amount": 0.5, "sparsity": 0.5}, "both"),
        ({"method": "l3", "amount": 0.5}, "unknown mask criterion"),
        ({"amount": 0.5, "scope": "everywhere"}, "unknown scope"),
        ({"amount": 0.5, "structure": "2:4"}, "2:4 says"),
        ({"structure": "3:5"}, "no chosen tensor"),
        ({"amount": 0.5, "select": "conv*"}, "fits no parameter"),
        ({"amount": {"9": 0.5}}, "fits no chosen tensor"),
        ({"method": "wanda", "amount": 0.5}, "needs data"),
        ({"method": "taylor", "amount": 0.5, "data": [X]}, "needs a loss"),
        ({"method": "l1", "amount": 0.5, "alpha": 1}, "unknown argument 'alpha'"),
        ({"method": "custom", "masks": {}}, "masks has nothing"),
    ):
        with pytest.raises(errors.RequestError, match=text):
            mask.prune(model, **arguments)
    assert not mask.is_pruned(model)
