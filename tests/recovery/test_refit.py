"""A refitted layer is the least-squares answer, found without ever holding all patches."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from secateur.coupling.layers import layer_of
from secateur.coupling.patches import Patches
from secateur.errors import CaptureError, RequestError
from secateur.recovery.layers import Readers

refit = importlib.import_module("secateur.recovery.steps.refit")


@pytest.fixture
def daring(monkeypatch):
    """Next to no ridge, for comparison with plain least squares."""
    monkeypatch.setattr(refit, "choose_ridge", lambda fit, test, has_constant: 1e-13)


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make().double().eval()


# name: (layers before, the layer, shape of the input)
LAYERS = {
    "linear": (lambda: nn.Linear(4, 8), lambda: nn.Linear(8, 3), (40, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 8), lambda: nn.Linear(8, 3), (6, 7, 4)),
    "linear without bias": (lambda: nn.Linear(4, 8), lambda: nn.Linear(8, 3, bias=False), (40, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 3), lambda: nn.Conv1d(8, 3, 3, padding=1), (6, 3, 20)),
    "conv2d": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(8, 3, 3, padding=1), (6, 3, 8, 8)),
    "conv2d strided": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(8, 3, 3, 2, 1), (12, 3, 9, 9)),
    "conv2d dilated": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(8, 3, 2, dilation=3), (6, 3, 9, 9)),
    "conv2d same": (
        lambda: nn.Conv2d(3, 8, 3),
        lambda: nn.Conv2d(8, 3, (2, 3), padding="same"),
        (6, 3, 8, 8),
    ),
    "conv2d uneven": (
        lambda: nn.Conv2d(3, 8, 3),
        lambda: nn.Conv2d(8, 3, (3, 2), stride=(1, 2), padding=(2, 0)),
        (6, 3, 9, 8),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2), lambda: nn.Conv3d(6, 2, 2), (6, 2, 5, 5, 5)),
    "grouped": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(8, 6, 3, groups=2), (9, 3, 8, 8)),
    "transposed 1d": (
        lambda: nn.Conv1d(3, 8, 3),
        lambda: nn.ConvTranspose1d(8, 3, 3, stride=2, output_padding=1),
        (6, 3, 20),
    ),
    "transposed 2d": (
        lambda: nn.Conv2d(3, 8, 3),
        lambda: nn.ConvTranspose2d(8, 3, (3, 2), stride=(2, 1), padding=(1, 0)),
        (6, 3, 8, 8),
    ),
    "transposed grouped and dilated": (
        lambda: nn.Conv2d(3, 8, 3),
        lambda: nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2, dilation=2),
        (6, 3, 8, 8),
    ),
    "transposed padded": (
        lambda: nn.Conv2d(3, 8, 3),
        lambda: nn.ConvTranspose2d(8, 3, 2, padding=2),
        (9, 3, 9, 9),
    ),
}


DEPTHWISE = {
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (9, 3, 9, 9)),
    "depthwise transposed": (lambda: nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=8), (9, 3, 9, 9)),
}


def columns(layer, inputs):
    """The layer's output as a matrix times its weights and biases: one run for each of them."""
    parameters = [parameter for parameter in (layer.weight, layer.bias) if parameter is not None]
    kept = [parameter.detach().clone() for parameter in parameters]
    found = []
    with torch.no_grad():
        for parameter in parameters:
            for at in range(parameter.numel()):
                for one in parameters:
                    one.zero_()
                parameter.view(-1)[at] = 1
                found.append(torch.cat([layer(x).flatten() for x in inputs]))
        for parameter, values in zip(parameters, kept, strict=True):
            parameter.copy_(values)
    return torch.stack(found, 1).numpy()


def squares(layer, inputs, wanted):
    with torch.no_grad():
        return sum((layer(x) - y).square().sum().item() for x, y in zip(inputs, wanted, strict=True))


def least(layer, inputs, wanted):
    """What ordinary least squares leaves, computed by numpy from all rows at once."""
    matrix, target = columns(layer, inputs), torch.cat([y.flatten() for y in wanted]).numpy()
    answer, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    return np.square(matrix @ answer - target).sum()


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_becomes_the_least_squares_answer_on_all_activations(case, daring):
    before, layer, shape = LAYERS[case]
    model = seeded(lambda: nn.Sequential(before(), nn.Tanh(), layer()))
    data = [torch.randn(shape).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    better = sc.recover(plain, data, ["refit"])
    with torch.no_grad():
        inputs, wanted = [plain.model[:2](x) for x in data], [model(x) for x in data]
    best = least(better.model[2], inputs, wanted)
    assert squares(better.model[2], inputs, wanted) == pytest.approx(best, rel=1e-6)
    assert best < 0.95 * squares(plain.model[2], inputs, wanted)
    assert [recovery.layer for recovery in better.recovered] == ["2"]


@pytest.mark.parametrize("case", DEPTHWISE)
def test_a_depthwise_layer_is_refitted_to_what_its_own_channels_became(case, daring):
    layer, shape = DEPTHWISE[case]
    model = seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh()), layer(), nn.Conv2d(8, 2, 1)
        )
    )
    data = [torch.randn(shape).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5, scope="local")
    better = sc.recover(plain, data, ["refit"])
    assert [recovery.layer for recovery in better.recovered] == ["2", "4", "5"]
    kept = list(plain.plan.keep["2"])
    with torch.no_grad():
        inputs, wanted = [better.model[:4](x) for x in data], [model[:5](x)[:, kept] for x in data]
    best = least(better.model[4], inputs, wanted)
    assert squares(better.model[4], inputs, wanted) == pytest.approx(best, rel=1e-6)
    assert best < squares(plain.model[4], inputs, wanted)


def test_a_convolution_equals_least_squares_on_unfolded_patches(daring):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 3, 3, 2, 1)))
    data = [torch.randn(12, 3, 9, 9).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    better = sc.recover(plain, data, ["refit"])
    with torch.no_grad():
        patches = [F.unfold(plain.model[:2](x), 3, stride=2, padding=1).transpose(1, 2) for x in data]
        wanted = torch.cat([model(x).flatten(2).transpose(1, 2).reshape(-1, 3) for x in data])
    rows = torch.cat([patch.reshape(-1, patch.shape[-1]) for patch in patches])
    rows = torch.cat([rows, torch.ones(len(rows), 1).double()], 1)
    answer, *_ = np.linalg.lstsq(rows.numpy(), wanted.numpy(), rcond=None)
    found = better.model[2]
    np.testing.assert_allclose(found.weight.detach().flatten(1).numpy(), answer[:-1].T, atol=1e-8)
    np.testing.assert_allclose(found.bias.detach().numpy(), answer[-1], atol=1e-8)


def test_the_ridge_is_the_one_of_the_formula(monkeypatch):
    monkeypatch.setattr(refit, "choose_ridge", lambda fit, test, has_constant: 0.3)
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    x = torch.randn(40, 4).double()
    plain = sc.prune(model, x, ratio=0.5)
    found = sc.recover(plain, [x], ["refit"]).model[2]
    with torch.no_grad():
        rows, wanted = plain.model[:2](x), model(x)
        centred = rows - rows.mean(0)
        gram = centred.T @ centred
        weight = plain.model[2].weight.T
        gap = wanted - rows @ weight
        ridge = 0.3 * gram.diagonal().diag()
        answer = weight + torch.linalg.solve(gram + ridge, centred.T @ (gap - gap.mean(0)))
    torch.testing.assert_close(found.weight.detach().T, answer)


# What can be restored is restored.


def repeating(make, pairs=True):
    """Channels of the second half are combinations of those of the first, before a linear layer."""
    model = make()
    with torch.no_grad():
        first = model[0]
        mix = torch.randn(4, 4)
        first.weight[4:] = torch.einsum("ij,j...->i...", mix, first.weight[:4])
        first.bias[4:] = mix @ first.bias[:4] + 1
    return model.eval()


COMBINED = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), (64, 4)),
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)), (16, 3, 9, 9)),
    "batch norm takes the constant": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3, bias=False), nn.BatchNorm2d(3)),
        (16, 3, 9, 9),
    ),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 1)), (16, 3, 9, 9)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", COMBINED)
def test_channels_that_are_combinations_of_kept_ones_are_not_missed(case, dtype):
    make, shape = COMBINED[case]
    torch.manual_seed(1)
    model = repeating(make).to(dtype)
    keep_first = lambda view: torch.arange(view.size, 0, -1)  # noqa: E731
    data = [torch.randn(shape, dtype=dtype) for _ in range(8)]
    plain = sc.prune(model, data[0], ratio=0.5, criterion=keep_first)
    better = sc.recover(plain, data, ["refit"])
    (one,) = better.errors
    assert one.before > 0.05
    assert one.after < (1e-6 if dtype is torch.float64 else 1e-5)
    assert "no step saw" in one.samples_from
    assert better.recovered[0].exact


# Residual networks.


class Residual(nn.Module):
    """A shortcut that loses an input of its own, and a branch behind batch norm and a scale."""

    def __init__(self, scale=False, move=False):
        super().__init__()
        self.stem, self.short = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1, bias=False)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 0.5) if scale else None
        self.move = move

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        short = self.short(x)
        y = self.norm(self.two(torch.tanh(self.one(x))))
        if self.scale is not None:
            y = self.scale * y
        if self.move:
            y, short = y.flatten(2).transpose(1, 2), short.flatten(2).transpose(1, 2)
        return y + short


@pytest.mark.parametrize("options", [{}, {"scale": True}, {"move": True}, {"scale": True, "move": True}])
def test_a_branch_takes_on_what_the_shortcut_has_lost(options, daring):
    model = seeded(lambda: Residual(**options))
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.normal_()
    data = [torch.randn(16, 3, 9, 9).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5, scope="local")
    model_better = sc.recover(plain, data, ["refit"]).model
    with torch.no_grad():
        sums = [model(x) for x in data]
        hidden = [torch.tanh(model_better.stem(x)) for x in data]
        inputs = [torch.tanh(model_better.one(x)) for x in hidden]
        shorts = [model_better.short(x) for x in hidden]
    # The whole chain behind `two` is affine, so the best sum over all its weights is found by columns.
    chain = _Chain(model_better, shorts)
    assert chain.squares(inputs, sums) == pytest.approx(chain.least(inputs, sums), rel=1e-6)


class _Chain:
    """two -> norm -> scale -> sum, as least squares in the weights of `two` and the mean of the norm."""

    def __init__(self, model, shorts):
        self.model, self.shorts = model, shorts

    def outputs(self, inputs):
        model, found = self.model, []
        with torch.no_grad():
            for x, short in zip(inputs, self.shorts, strict=True):
                y = model.norm(model.two(x))
                y = y if model.scale is None else model.scale * y
                y = y + short
                found.append(y.flatten(2).transpose(1, 2) if model.move else y)
        return torch.cat([y.flatten() for y in found])

    def squares(self, inputs, sums):
        return (self.outputs(inputs) - torch.cat([y.flatten() for y in sums])).square().sum().item()

    def least(self, inputs, sums):
        weight, bias = self.model.two.weight.data, self.model.two.bias.data
        weight.zero_()
        bias.zero_()
        base = self.outputs(inputs)
        columns = []
        for tensor in (weight, bias):
            for at in range(tensor.numel()):
                tensor.view(-1)[at] = 1
                columns.append(self.outputs(inputs) - base)
                tensor.view(-1)[at] = 0
        target = torch.cat([y.flatten() for y in sums]) - base
        matrix = torch.stack(columns, 1).numpy()
        answer, *_ = np.linalg.lstsq(matrix, target.numpy(), rcond=None)
        return np.square(matrix @ answer - target.numpy()).sum()


def test_the_target_follows_a_batch_norm_that_an_earlier_step_changed():
    """Absorb moves the running mean: what refit aims at must move with it."""
    torch.manual_seed(1)
    model = repeating(COMBINED["batch norm takes the constant"][0]).double()
    data = [torch.randn(16, 3, 9, 9).double() for _ in range(2)]
    keep_first = lambda view: torch.arange(view.size, 0, -1)  # noqa: E731
    plain = sc.prune(model, data[0], ratio=0.5, criterion=keep_first)
    for steps in (["absorb", "refit"], ["batch-norm", "refit"], ["refit", "refit"]):
        assert sc.recover(plain, data, steps).errors[-1].after < 1e-6, steps


# Shared layers, singular systems, bounds.


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).tanh()), self.b(self.a(x + 1).tanh())


def test_a_layer_that_is_called_twice_is_fitted_to_both_calls(daring):
    model = seeded(Twice)
    data = [torch.randn(64, 4).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    found = sc.recover(plain, data, ["refit"])
    with torch.no_grad():
        inputs = [plain.model.a(x + shift).tanh() for x in data for shift in (0, 1)]
        wanted = [model.b(model.a(x + shift).tanh()) for x in data for shift in (0, 1)]
    best = least(found.model.b, inputs, wanted)
    assert squares(found.model.b, inputs, wanted) == pytest.approx(best, rel=1e-6)
    (recovery,) = found.recovered
    assert "on 256 positions" in recovery.detail
    calls = [torch.cat(wanted[start::2]) for start in (0, 1)]
    size = sum((y - y.mean(0)).square().sum().item() for y in calls)
    assert f"-> {100 * (best / size) ** 0.5:.3g} %" in recovery.detail


def test_a_tied_weight_with_another_use_is_left_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x):
            return self.head(self.table(x).tanh())

    tokens = torch.randint(0, 11, (4, 7))
    result = sc.recover(sc.prune(Tied(), tokens, ratio=0.5), [tokens], ["refit"])
    (recovery,) = result.recovered
    assert recovery.detail.startswith("its weight is also used by aten.embedding")


@pytest.mark.parametrize("fill", ["zeros", "one sample", "constant"])
def test_a_singular_gram_matrix_is_solved_and_never_gives_nan(fill):
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    x = {"zeros": torch.zeros(9, 4), "one sample": torch.randn(1, 4), "constant": torch.ones(9, 4)}[fill]
    plain = sc.prune(model, x.double(), ratio=0.5)
    for ridge in (None, 0.0):
        if ridge is not None:
            original, refit.choose_ridge = refit.choose_ridge, lambda *_, **__: 1e-30
        try:
            better = sc.recover(plain, [x.double()], ["refit"])
        finally:
            if ridge is not None:
                refit.choose_ridge = original
        assert all(parameter.isfinite().all() for parameter in better.model.parameters())
        assert better.errors[0].after < 1e-6  # one constant output is a matter of the bias


def test_few_samples_do_not_make_it_worse():
    """256 unknowns, 24 rows: without a ridge by choice the answer would be noise."""
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 512), nn.Tanh(), nn.Linear(512, 4)))
    data = [torch.randn(3, 16).double() for _ in range(9)]
    plain = sc.prune(model, data[0], ratio=0.5)
    better = sc.recover(plain, data, ["refit"])
    assert better.errors[0].after < better.errors[0].before
    assert "fewer positions than its 256 inputs" in better.recovered[0].detail


def test_a_wide_layer_is_refitted_in_blocks(monkeypatch, daring):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 3, 3)))
    data = [torch.randn(16, 3, 9, 9).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    whole = sc.recover(plain, data, ["refit"]).errors[0].after
    monkeypatch.setattr(refit, "_WIDEST", 30)  # 8 channels of 9: three blocks
    blocks = sc.recover(plain, data, ["refit"])
    assert whole < blocks.errors[0].after < blocks.errors[0].before
    monkeypatch.setattr(refit, "_MOST_BLOCKS", 2)
    left = sc.recover(plain, data, ["refit"])
    assert left.recovered[0].detail == "72 inputs for one output, at most 60"
    assert left.errors[0].after == left.errors[0].before


@pytest.mark.parametrize(("widest", "blocks"), [(30, []), (20, [18] * 4)])
def test_few_rows_of_a_wide_layer_are_held_while_they_are_few(monkeypatch, daring, widest, blocks):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 3, 3)))
    data = [torch.randn(5, 3, 5, 5).double() for _ in range(2)]  # ten rows of 72 numbers
    plain = sc.prune(model, data[0], ratio=0.5)
    made = []
    gram = refit.Gram
    monkeypatch.setattr(refit, "_WIDEST", widest)
    monkeypatch.setattr(refit, "Gram", lambda *sizes: made.append(sizes[1]) or gram(*sizes))
    better = sc.recover(plain, data, ["refit"])
    assert made[::2] == blocks
    assert better.errors[0].after < better.errors[0].before


def test_many_positions_are_drawn_from_with_a_fixed_seed(monkeypatch):
    monkeypatch.setattr(refit, "_FEWEST_ROWS", 200)
    monkeypatch.setattr(refit, "_ROWS_PER_UNKNOWN", 4)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 3, 3)))
    data = [torch.randn(16, 3, 9, 9).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    one, two = (sc.recover(plain, data, ["refit"]) for _ in range(2))
    assert "on 200 positions drawn from 800" in one.recovered[0].detail
    assert torch.equal(one.model[2].weight, two.model[2].weight)
    assert one.errors[0].after < one.errors[0].before


class _Largest(TorchDispatchMode):
    """The most elements that any tensor made under it has."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and "as_strided" not in func.__name__:
            memory = output.untyped_storage().nbytes() // output.element_size()
            self.most = max(self.most, min(output.numel(), memory))
        return output


def test_no_tensor_holds_all_patches(monkeypatch):
    monkeypatch.setattr(refit, "_PIECE", 2**12)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 2, 5)))
    data = [torch.randn(4, 3, 20, 20).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    with _Largest() as seen:
        better = sc.recover(plain, data, ["refit"])
    patches_of_a_batch = 4 * 16 * 16 * 4 * 25
    assert better.errors[0].after < better.errors[0].before
    assert seen.most < patches_of_a_batch / 4
    activations = 4 * 8 * 20 * 20
    assert seen.most <= max(activations, 2**12, 100 * 100)


def test_beyond_the_memory_limit_fewer_batches_are_used():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 3, 3)))
    data = [torch.randn(4, 3, 9, 9).double() for _ in range(5)]
    plain = sc.prune(model, data[0], ratio=0.5)
    each = (
        4 * 49 * (8 + 4) * 8
    )  # what the second convolution reads: 8 dense channels and 4 cut ones, in bytes
    better = sc.recover(plain, data, ["refit"], memory_bytes=int(3.5 * each))
    note = better.recovered[0]
    assert note.layer == "data"
    assert note.detail.startswith("3 of 5 batches were used")
    same = sc.recover(plain, data[:3], ["refit"])
    assert torch.equal(better.model[2].weight, same.model[2].weight)


def test_one_batch_beyond_the_memory_limit_is_used_and_said():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    data = [torch.randn(64, 4).double() for _ in range(2)]
    plain = sc.prune(model, data[0], ratio=0.5)
    for given in (data, data[:1]):
        note = sc.recover(plain, given, ["refit"], memory_bytes=100).recovered[0]
        assert note.layer == "data"
        assert note.detail.startswith(f"1 of {len(given)} batches was used, and it alone takes over 0 MiB")


def test_a_layer_that_reads_one_sample_without_a_batch_is_refitted():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    samples = torch.randn(40, 4).double()
    plain = sc.prune(model, samples[0], ratio=0.5)
    one, whole = (sc.recover(plain, data, ["refit"]) for data in ([*samples, samples[0]], [samples]))
    assert "on 40 positions" in one.recovered[0].detail
    assert one.errors[0].after < one.errors[0].before
    torch.testing.assert_close(one.model[2].weight, whole.model[2].weight, rtol=0, atol=0.2)


# What may not be harmed.


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_by_name(poison):
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    data = [torch.randn(8, 4).double() for _ in range(2)]
    data[1][3] = poison
    plain = sc.prune(model, data[0], ratio=0.5)
    with pytest.raises(CaptureError, match=r"layer 2 reads NaN or infinity on batch 1 of the data"):
        sc.recover(plain, data, ["refit"])


def test_models_flags_types_and_hooks_stay_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3)).bfloat16()
    model[3].weight.requires_grad_(False)
    model.train()
    x = [torch.randn(8, 3, 9, 9).bfloat16() for _ in range(2)]
    plain = sc.prune(model, x[0], ratio=0.5)
    states = [{name: held.clone() for name, held in net.state_dict().items()} for net in (model, plain.model)]
    better = sc.recover(plain, x, ["refit", "batch-norm"]).model
    for net, state in zip((model, plain.model), states, strict=True):
        assert all(torch.equal(held, state[name]) for name, held in net.state_dict().items())
    assert better.training
    assert better[1].training
    assert not better[3].weight.requires_grad
    assert better[3].bias.requires_grad
    assert {held.dtype for held in better.state_dict().values()} == {torch.bfloat16, torch.int64}
    assert not torch.equal(better[3].weight, plain.model[3].weight)
    assert better[1].momentum == 0.1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in better.modules())
    better(x[0]).sum().backward()


def test_an_exception_leaves_no_mode_and_no_hook_behind():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.broken = nn.Linear(4, 8), nn.Linear(8, 2), False

        def forward(self, x):
            if self.broken:
                raise ValueError("on purpose")
            return self.b(self.a(x).relu())

    model = Breaks()
    plain = sc.prune(model, torch.randn(2, 4), ratio=0.5)
    model.broken = True
    with pytest.raises(CaptureError, match=r"does not run on batch 1 of the data: ValueError: on purpose"):
        sc.recover(plain, [torch.randn(2, 4)] * 2, ["refit"])
    model.broken = False
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert not any(module._forward_hooks for module in [*model.modules(), *plain.model.modules()])


def test_no_data_is_refused_before_the_work():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(RequestError, match="recovery step 'refit' needs data"):
        sc.prune(model, torch.zeros(1, 4), ratio=0.5, recover=["absorb", "refit"])


def test_patches_are_a_view_of_the_input():
    layer = nn.Conv2d(4, 2, 3, padding=0)
    model = nn.Sequential(layer)
    x = torch.randn(2, 4, 8, 8)
    (node,) = sc.couple(model, x).graph.nodes
    patches = Patches({**node.args, "weight": layer.weight}, x)
    assert patches._view.data_ptr() == x.data_ptr()
    rows = patches.take(torch.arange(patches.rows), 0, 4)
    expected = F.unfold(x, 3).transpose(1, 2).reshape(1, -1, 36)
    torch.testing.assert_close(rows, expected.double())


def test_an_output_that_does_not_vary_has_no_share_that_is_wrong():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    result = sc.prune(net, torch.zeros(1, 4), ratio=0.5)
    (told,) = sc.recover(result, [torch.randn(1, 4)], ["refit"]).recovered
    assert not told.exact
    assert "its output does not vary on 1 position" in str(told)


@pytest.mark.parametrize("turn", ["swapaxes", "flatten", "roll", "type_as", "to"])
def test_the_way_to_an_addition_leads_through_moves_but_not_through_casts(turn):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            moved = {
                "swapaxes": lambda y: y.swapaxes(0, 1).swapaxes(0, 1),
                "flatten": lambda y: y.flatten().unflatten(0, (4, 4)),
                "roll": lambda y: y.roll(1, 0),
                "type_as": lambda y: y.type_as(x),
                "to": lambda y: y.to(torch.float64).to(torch.float32),
            }[turn](self.one(x))
            return moved + self.two(x)

    graph = sc.couple(Net(), torch.zeros(4, 4)).graph
    path = Readers(graph).path_to_sum(layer_of(graph, graph.nodes[0]))
    assert ("aten.add" in [node.op for node in path]) == (turn not in ("type_as", "to"))
