"""What removed channels always contributed goes on being contributed, exactly where that is possible."""

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CaptureError, RequestError
from secateur.recovery.step import steps


class Sequence(nn.Sequential):
    """Layers in a row; the first batch norm has scales of zero and shifts that matter."""

    shape = (2, 3, 9, 9)


def row(*layers):
    return Sequence(*layers)


class Skip(nn.Module):
    """Batch norms of two branches that are added: a removed channel is the sum of their shifts."""

    shape = (2, 3, 9, 9)

    def __init__(self):
        super().__init__()
        self.left, self.left_norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.right, self.right_norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.next, self.head = nn.Conv2d(8, 5, 3), nn.Conv2d(8, 4, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = torch.relu(self.left_norm(self.left(x)) + self.right_norm(self.right(x)))
        return self.next(x), self.head_norm(self.head(x))


class Gated(nn.Module):
    """The constants are multiplied with a number that depends on the input."""

    shape = (1, 1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.gate, self.head = nn.Linear(1, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        return self.head(torch.relu(self.norm(self.conv(x))) * gate[:, :, None, None])


class Branching(nn.Module):
    """Takes another path for another input, so that no constant can be relied on."""

    shape = (1, 1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        hidden = self.norm(self.conv(x))
        return self.head(torch.sigmoid(hidden) if x.abs().sum() > 0 else torch.relu(hidden))


def stem(activation=nn.ReLU, norm=nn.BatchNorm2d, conv=nn.Conv2d):
    return conv(3, 8, 3), norm(8), activation()


EXACT = {
    "bias": lambda: row(*stem(), nn.Conv2d(8, 4, 3)),
    "batch norm": lambda: row(*stem(), nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "bias and batch norm": lambda: row(*stem(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
    "batch norm without affine": lambda: row(
        *stem(), nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)
    ),
    "silu": lambda: row(*stem(nn.SiLU), nn.Conv2d(8, 4, 3)),
    "sigmoid": lambda: row(*stem(nn.Sigmoid), nn.Conv2d(8, 4, 3)),
    "max pool": lambda: row(*stem(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)),
    "strided": lambda: row(*stem(), nn.Conv2d(8, 4, 3, stride=2)),
    "dilated": lambda: row(*stem(), nn.Conv2d(8, 4, 3, dilation=2)),
    "flatten and linear": lambda: row(*stem(), nn.Flatten(), nn.Linear(8 * 49, 4)),
    "mean and linear": lambda: row(*stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    "grouped": lambda: row(*stem(), nn.Conv2d(8, 4, 3, groups=4), nn.BatchNorm2d(4)),
    "unit stride transposed": lambda: row(*stem(), nn.ConvTranspose2d(8, 4, 1)),
    "two cuts in a row": lambda: row(
        *stem(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    ),
    "two branches": Skip,
}

APPROXIMATE = {
    "padding": lambda: row(*stem(), nn.Conv2d(8, 4, 3, padding=1)),
    "padding and batch norm": lambda: row(
        *stem(), nn.Conv2d(8, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
    ),
    "transposed with stride": lambda: row(*stem(), nn.ConvTranspose2d(8, 4, 3, stride=2)),
    "average pool that counts its padding": lambda: row(*stem(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 4, 1)),
}


def silenced(make, seed=0):
    """A network in which half of the batch-norm scales are zero, and the shifts are not."""
    generator = torch.Generator().manual_seed(seed)
    model = make()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(len(module.running_mean), generator=generator))
                module.running_var.copy_(torch.rand(len(module.running_var), generator=generator) + 0.5)
                if module.affine:
                    module.bias += 0.5
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and len(module.running_mean) == 8:
                module.weight[1::2] = 0
    return model.eval()


def cut(model, x, **options):
    # Half of the channels of every group: those of scale zero.
    return sc.prune(model, x, ratio=0.5, criterion="bn-scale", scope="local", **options)


def outputs(model, x):
    with torch.no_grad():
        found = model(x)
    return found if isinstance(found, tuple) else (found,)


def errors(model, reference, inputs):
    pairs = [pair for x in inputs for pair in zip(outputs(model, x), outputs(reference, x), strict=True)]
    return [((one - two).abs().max() / two.abs().max()).item() for one, two in pairs]


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def require_unchanged(model, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", EXACT)
def test_constants_without_padding_are_absorbed_exactly(case, dtype):
    model = silenced(EXACT[case]).to(dtype)
    inputs = [torch.randn(model.shape, dtype=dtype) for _ in range(3)]
    plain, recovered = cut(model, inputs[0]), cut(model, inputs[0], recover=["absorb"])
    assert recovered.recovered
    assert all(recovery.exact for recovery in recovered.recovered), recovered.recovered
    assert max(errors(plain.model, model, inputs)) > 1e-2
    assert max(errors(recovered.model, model, inputs)) < (1e-12 if dtype is torch.float64 else 1e-5)


@pytest.mark.parametrize("case", APPROXIMATE)
def test_constants_at_borders_are_absorbed_as_well_as_can_be(case):
    for seed in range(3):
        model = silenced(APPROXIMATE[case], seed).double()
        inputs = [torch.randn(model.shape).double() for _ in range(4)]
        plain, recovered = cut(model, inputs[0]), cut(model, inputs[0], recover=["absorb"])
        assert not any(recovery.exact for recovery in recovered.recovered)
        assert "approximate" in str(recovered.recovered[0])
        without, with_it = (mean_square(result.model, model, inputs) for result in (plain, recovered))
        assert with_it < without


def mean_square(model, reference, inputs):
    return sum(
        (one - two).square().mean().item()
        for x in inputs
        for one, two in zip(outputs(model, x), outputs(reference, x), strict=True)
    )


def test_channels_without_batch_norm_are_not_called_constant():
    """With an example of zeros everything looks constant."""
    model = row(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    result = sc.prune(model, torch.zeros(1, 3, 9, 9), ratio=0.5, recover=["absorb"])
    assert [recovery.exact for recovery in result.recovered] == [False]


@pytest.mark.parametrize("make", [Gated, Branching])
def test_what_depends_on_the_input_is_not_called_constant(make):
    model = silenced(make)
    result = cut(model, torch.zeros(make.shape), recover=["absorb"], check=False)
    assert [recovery.exact for recovery in result.recovered] == [False]


def test_scales_that_are_not_zero_still_leave_their_shift():
    """Real sparse training stops near zero; the shift is most of what such a channel contributes."""
    model = silenced(EXACT["bias"]).double()
    with torch.no_grad():
        model[1].weight[1::2] = 1e-3
    inputs = [torch.randn(model.shape).double() for _ in range(3)]
    plain, recovered = cut(model, inputs[0]), cut(model, inputs[0], recover=["absorb"])
    assert max(errors(recovered.model, model, inputs)) < 0.05 * max(errors(plain.model, model, inputs))
    assert [recovery.exact for recovery in recovered.recovered] == [False]


# Without data only what no input can move is a constant.


@pytest.mark.parametrize("fill", [torch.zeros, torch.ones, torch.randn])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_without_data_the_answer_to_the_example_is_not_taken_for_a_constant(fill, activation):
    torch.manual_seed(0)
    model = row(nn.Linear(8, 32), activation(), nn.Linear(32, 3)).eval()
    plain = sc.prune(model, fill(1, 8), ratio=0.3)
    better = sc.recover(plain)
    require_unchanged(better.model, state_of(plain.model))
    assert [recovery.detail for recovery in better.recovered] == [
        "what it lost depends on the input, pass data"
    ]


class Tokens(nn.Module):
    """Whole numbers go in; the batch norm makes constants, or the table itself is cut."""

    def __init__(self, norm=True):
        super().__init__()
        self.table, self.conv = nn.Embedding(11, 3), nn.Conv1d(3, 8, 3)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.norm(self.conv(self.table(tokens).transpose(1, 2))).relu().mean(2))


@pytest.mark.parametrize("tokens", [torch.arange(22).view(2, 11) % 11, torch.zeros(2, 11).long()])
@pytest.mark.parametrize("norm", [True, False])
def test_whole_numbers_are_drawn_anew_where_they_can_be(tokens, norm):
    torch.manual_seed(0)
    model = Tokens(norm).double().eval()
    if norm:
        with torch.no_grad():
            model.norm.weight[1::2], model.norm.bias[:] = 0, 0.5
    result = sc.prune(model, tokens, ratio=0.5, criterion="bn-scale" if norm else "l2", recover=["absorb"])
    (recovery,) = [one for one in result.recovered if one.layer == "head"]
    if norm and tokens.any():
        assert recovery.exact
        other = torch.randint(0, 11, (5, 11))
        torch.testing.assert_close(result.model(other), model(other))
    else:
        assert (recovery.status, recovery.detail) == (
            "left alone",
            "what it lost depends on the input, pass data",
        )


# The inputs are the user's.


class Writing(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        x.mul_(2).add_(1)
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("steps", [["absorb"], ["absorb", "refit"]])
def test_a_model_that_writes_into_its_input_does_not_spoil_the_data(steps):
    torch.manual_seed(0)
    model = Writing()
    x = torch.randn(64, 4)
    given = x.clone()
    plain = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
    better = sc.recover(plain, [x], steps)
    assert torch.equal(x, given)
    assert better.errors[-1].after < better.errors[0].before
    sc.recover(plain)
    assert not plain.example_inputs.any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_by_name(poison):
    model = row(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    data = [torch.randn(8, 4) for _ in range(2)]
    data[1][3] = poison
    plain = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
    with pytest.raises(CaptureError, match=r"layer 2 reads NaN or infinity on batch 1 of the data"):
        sc.recover(plain, data, ["absorb"])


# A constant goes nowhere where it was not lost.


class TiedBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lost, self.whole = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(4, 3)
        self.whole.bias = self.lost.bias

    def forward(self, x):
        return self.lost(self.a(x).relu()), self.whole(x)


class BiasReadElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lost = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.lost(self.a(x).relu()), x[:, :3] * self.lost.bias


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lost = nn.Linear(4, 16), nn.Linear(16, 3, bias=False)
        self.whole, self.norm = nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.lost(self.a(x).relu())), self.norm(self.whole(x))


@pytest.mark.parametrize(
    ("make", "place"),
    [(TiedBias, "its bias"), (BiasReadElsewhere, "its bias"), (SharedNorm, "norm.running_mean")],
)
@pytest.mark.parametrize("step", ["absorb", "refit"])
def test_what_is_also_used_where_nothing_was_lost_takes_no_constant(make, place, step):
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(64, 4)
    result = sc.recover(sc.prune(model, x[:1], ratio=0.5), [x], [step])
    assert torch.equal(outputs(result.model, x)[1], outputs(model, x)[1])
    (recovery,) = result.recovered
    assert recovery.layer == "lost"
    reason = f"{place} is also used where this was not lost"
    assert recovery.detail == reason if step == "absorb" else "takes a constant" in recovery.detail


def test_a_batch_norm_over_tokens_takes_no_constant_of_the_channels():
    """Linear -> BatchNorm1d on [n, tokens, channels] normalises the tokens."""
    torch.manual_seed(0)
    for tokens in (5, 3):
        layers = (nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3, bias=False), nn.BatchNorm1d(tokens))
        model = row(*layers).eval()
        x = torch.randn(16, tokens, 4)
        plain = sc.prune(model, x[:2], ratio=0.5)
        absorbed, refitted = (sc.recover(plain, [x], [step]) for step in ("absorb", "refit"))
        assert absorbed.recovered[0].detail == "no bias and no batch norm takes the constant"
        assert "no bias and no batch norm takes a constant" in refitted.recovered[0].detail
        assert torch.equal(refitted.model[3].running_mean, model[3].running_mean)
        assert refitted.errors[0].after < refitted.errors[0].before


# Weights that are no parameter of a layer.


class Product(nn.Module):
    """A parameter that is multiplied with, in one of several ways."""

    def __init__(self, multiply):
        super().__init__()
        self.a, self.multiply = nn.Linear(4, 16), multiply
        self.weight, self.bias = nn.Parameter(torch.randn(16, 3)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.multiply(self.a(x).relu(), self.weight, self.bias)


def test_addmm_and_products_with_a_parameter_are_layers():
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    model = Product(lambda y, weight, bias: torch.addmm(bias, y, weight))
    plain = sc.prune(model, x[:2], ratio=0.5)
    better = sc.recover(plain, [x], ["absorb"])
    assert "8 inputs went into its bias" in better.recovered[0].detail
    means = [outputs(net, x)[0].mean(0) for net in (better.model, model)]
    torch.testing.assert_close(*means)
    for multiply in (lambda y, weight, bias: y @ weight + bias, lambda y, weight, bias: torch.mm(y, weight)):
        plain = sc.prune(Product(multiply), x[:2], ratio=0.5)
        better = sc.recover(plain, [x])
        assert [(one.step, one.layer) for one in better.recovered] == [
            ("absorb", "weight"),
            ("refit", "weight"),
        ]
        assert better.errors[1].after < 0.9 * better.errors[1].before


def computed(wrap):
    torch.manual_seed(0)
    model = row(nn.Linear(4, 16), nn.ReLU(), wrap(nn.Linear(16, 3))).eval()
    x = torch.randn(64, 4)
    plain = sc.prune(model, x[:1], ratio=0.5)
    return model, x, plain, sc.recover(plain, [x])


def test_of_a_masked_weight_the_bias_is_filled_and_the_rest_said():
    model, x, _, better = computed(lambda layer: (sc.mask.prune(layer, amount=0.5), layer)[1])
    assert [str(one) for one in better.recovered] == [
        "absorb 2: approximate, 8 inputs went into its bias, the mean of a varying response",
        "refit 2: approximate, left alone: its weight is computed",
    ]
    torch.testing.assert_close(outputs(better.model, x)[0].mean(0), outputs(model, x)[0].mean(0))


def old_weight_norm(layer):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, old_weight_norm],
)
def test_a_normed_weight_is_left_alone_and_said(wrap):
    """Its norm is another after the cut: the kept inputs count for more, and the lost ones are not all."""
    _, _, plain, better = computed(wrap)
    assert [str(one) for one in better.recovered] == [
        f"{step} 2: approximate, left alone: its weight is computed" for step in ("absorb", "refit")
    ]
    require_unchanged(better.model, state_of(plain.model))


def test_no_place_for_the_constant_is_said():
    model = silenced(lambda: row(*stem(), nn.Conv2d(8, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    plain, result = (
        cut(model, torch.randn(model.shape)),
        cut(model, torch.randn(model.shape), recover=["absorb"]),
    )
    first = next(recovery for recovery in result.recovered if recovery.layer == "3")
    assert first.status == "left alone"
    assert first.detail == "no bias and no batch norm takes the constant"
    assert torch.equal(result.model[3].weight, plain.model[3].weight)


def test_a_batch_norm_that_is_not_alone_does_not_take_the_constant():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.next, self.after = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.next(torch.relu(self.norm(self.conv(x))))
            return self.after(x) + x

    result = cut(silenced(Fork), torch.randn(2, 3, 9, 9), recover=["absorb"])
    (recovery,) = result.recovered
    assert recovery.status == "left alone"


def test_each_layer_says_how_many_inputs_went_where():
    result = cut(silenced(EXACT["batch norm"]), torch.randn(2, 3, 9, 9), recover=["absorb"])
    assert [str(recovery) for recovery in result.recovered] == [
        "absorb 3: exact, 4 inputs went into 4.running_mean"
    ]


def test_data_makes_up_for_what_is_not_constant():
    """Li et al.'s bias compensation: the mean of what was lost, on real inputs."""
    model = row(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double().eval()
    data = [(torch.randn(16, 3, 9, 9).double() + 0.5, torch.zeros(16)) for _ in range(4)]
    plain = sc.prune(model, data[0][0], ratio=0.5)
    result = sc.prune(model, data[0][0], ratio=0.5, recover=["absorb"], data=data)
    assert [recovery.exact for recovery in result.recovered] == [False]
    fresh = [torch.randn(16, 3, 9, 9).double() + 0.5]
    assert mean_square(result.model, model, fresh) < 0.7 * mean_square(plain.model, model, fresh)
    seen = torch.cat([x for x, _ in data])
    means = [outputs(net, seen)[0].mean((0, 2, 3)) for net in (result.model, model)]
    torch.testing.assert_close(*means, rtol=0, atol=1e-10)


def test_one_batch_or_many_give_the_same_mean():
    model = row(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double().eval()
    x = torch.randn(12, 3, 9, 9).double()
    plain = sc.prune(model, x, ratio=0.5)
    one, many = (sc.recover(plain, data, ["absorb"]) for data in ([x], list(x.split([5, 5, 2]))))
    torch.testing.assert_close(one.model[2].bias, many.model[2].bias, rtol=1e-12, atol=0)


def test_recovering_changes_neither_what_it_was_given_nor_the_result_before():
    model = silenced(EXACT["batch norm"])
    x = torch.randn(model.shape)
    plain = cut(model, x)
    before, cut_before = state_of(model), state_of(plain.model)
    recovered = sc.recover(plain)
    require_unchanged(model, before)
    require_unchanged(plain.model, cut_before)
    assert plain.recovered == ()
    assert recovered.model is not plain.model
    assert not torch.equal(recovered.model[4].running_mean, plain.model[4].running_mean)
    assert recovered.plan is plain.plan


def test_mode_and_gradients_stay():
    model = silenced(EXACT["bias"]).train()
    model[3].bias.requires_grad_(False)
    recovered = cut(model, torch.randn(model.shape), recover=["absorb"]).model
    assert recovered.training
    assert not recovered[3].bias.requires_grad
    assert recovered[0].weight.requires_grad
    copy.deepcopy(recovered)(torch.randn(model.shape)).sum().backward()


def test_nothing_removed_leaves_nothing_to_absorb():
    model = silenced(EXACT["bias"])
    with pytest.warns(sc.errors.NoEffectWarning):
        result = sc.prune(model, torch.randn(model.shape), ratio=0, recover=["absorb"])
    assert result.recovered == ()
    require_unchanged(result.model, state_of(model))


def test_an_unknown_step_is_refused_with_a_suggestion():
    model = silenced(EXACT["bias"])
    with pytest.raises(RequestError, match=r"unknown recovery step 'absrob'(.|\n)*did you mean 'absorb'"):
        cut(model, torch.randn(model.shape), recover=["absrob"])
    assert "absorb" in steps
