"""The whole path, against references that are written by hand and use none of the library."""

import copy
import time

import nets
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from secateur.errors import CaptureError, RequestError


def run(model, x):
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(x.double())


def gone(result, name):
    size = next(group.size for group in result.plan.groups if group.name == name)
    return sorted(set(range(size)) - set(result.plan.keep[name]))


def require_equal(masked, result, x):
    expected, got = run(masked, x), run(result.model, x)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def blind_residual(model, result):
    """Zero what reads a removed channel: nobody sees it any more."""
    stem, inner = gone(result, "stem"), gone(result, "inner")
    assert stem
    assert inner
    model.inner.weight[:, stem] = 0
    model.outer.weight[:, inner] = 0
    model.head.weight.view(5, 8, 4)[:, stem] = 0


def blind_dense(model, result):
    left = gone(result, "left")
    grouped = next(name for name in result.plan.keep if name != "left")
    assert left
    assert gone(result, grouped)
    model.grouped.weight[:, left] = 0
    for removed in gone(result, grouped):
        model.head.weight[:, [removed, 4 + removed]] = 0


def blind_tied(model, result):
    (name,) = result.plan.keep
    removed = gone(result, name)
    model.one.weight[:, removed] = 0  # the same tensor as two.weight
    model.last.weight[:, removed] = 0


def blind_attention(model, result):
    """Whole heads: the output projection is all that reads one."""
    (name,) = (group.name for group in result.plan.groups if gone(result, group.name))
    assert result.model.heads == 2
    model.out.weight.view(12, 3, 4)[:, gone(result, name)] = 0


def blind_gram(model, result):
    removed = gone(result, "features")
    model.head.weight.view(2, 5, 5)[:, removed] = 0
    model.head.weight.view(2, 5, 5)[:, :, removed] = 0


CASES = {
    "residual": (nets.Residual, (2, 3, 6, 6), blind_residual),
    "dense": (nets.Dense, (2, 3, 8, 8), blind_dense),
    "tied": (nets.Tied, (2, 4), blind_tied),
    "attention": (nets.Attention, (2, 5, 12), blind_attention),
    "gram": (nets.Gram, (2, 3, 6, 6), blind_gram),
}


@pytest.fixture(params=list(CASES))
def case(request):
    make, shape, blind = CASES[request.param]
    return nets.randomise(make()).train(), torch.randn(shape), blind


@pytest.mark.parametrize("criterion", ["l2", "random"])
def test_the_cut_model_equals_a_masked_one_made_by_hand(case, criterion):
    model, x, blind = case
    result = sc.prune(model, x, ratio=0.4, criterion=criterion, scope="local")
    masked = copy.deepcopy(model)
    with torch.no_grad():
        blind(masked, result)
    require_equal(masked, result, x)
    assert result.verdict.exact
    assert result.verdict.relative_error < 1e-12
    assert result.after.params == sum(parameter.numel() for parameter in result.model.parameters())
    assert result.after.params < result.before.params
    assert result.after.macs < result.before.macs


def test_the_original_is_not_touched(case):
    model, x, _ = case
    model.register_forward_hook(lambda *_: None)
    next(model.parameters()).requires_grad_(False)
    before, grads = copy.deepcopy(model.state_dict()), [held.requires_grad for held in model.parameters()]
    names, held = set(vars(model)), [id(tensor) for tensor in [*model.parameters(), *model.buffers()]]
    result = sc.prune(model, x, ratio=0.4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [id(tensor) for tensor in [*model.parameters(), *model.buffers()]] == held
    assert [tensor.requires_grad for tensor in model.parameters()] == grads
    assert all(module.training for module in model.modules())
    assert set(vars(model)) == names
    assert len(model._forward_hooks) == 1
    assert all(not module._forward_hooks for module in list(model.modules())[1:])
    assert type(result.model) is type(model)
    assert result.model.training
    assert [tensor.requires_grad for tensor in result.model.parameters()] == grads


def test_kept_weights_are_bit_equal():
    model = nets.randomise(nets.Residual())
    result = sc.prune(model, torch.randn(2, 3, 6, 6), ratio=0.4)
    stem, inner = (list(result.plan.keep[name]) for name in ("stem", "inner"))
    cut = result.model
    assert torch.equal(cut.stem.weight, model.stem.weight[stem])
    assert torch.equal(cut.norm.running_var, model.norm.running_var[stem])
    assert torch.equal(cut.inner.weight, model.inner.weight[inner][:, stem])
    assert torch.equal(cut.inner_norm.bias, model.inner_norm.bias[inner])
    assert torch.equal(cut.outer.weight, model.outer.weight[stem][:, inner])
    assert torch.equal(cut.outer.bias, model.outer.bias[stem])
    assert torch.equal(cut.head.weight, model.head.weight.view(5, 8, 4)[:, stem].reshape(5, -1))
    assert torch.equal(cut.head.bias, model.head.bias)
    assert (cut.norm.num_features, cut.inner.in_channels, cut.inner.out_channels) == (
        len(stem),
        len(stem),
        len(inner),
    )
    assert cut.head.in_features == 4 * len(stem)


def test_ties_stay_tied():
    result = sc.prune(nets.Tied(), torch.randn(2, 4), ratio=0.5)
    assert result.model.one.weight is result.model.two.weight
    assert result.model.one.weight.shape == (4, 4)


def test_the_cut_model_can_be_trained():
    result = sc.prune(nets.Residual(), torch.randn(2, 3, 6, 6), ratio=0.5)
    result.model.train()(torch.randn(4, 3, 6, 6)).sum().backward()
    assert all(parameter.grad is not None for parameter in result.model.parameters())


def test_the_cut_model_can_be_pruned_again():
    x = torch.randn(2, 3, 6, 6)
    once = sc.prune(nets.randomise(nets.Residual()), x, ratio=0.4)
    twice = sc.prune(once.model, x, ratio=0.4)
    assert twice.verdict.exact
    assert twice.before == once.after
    assert twice.after.params < once.after.params


def test_a_plan_applies_to_other_values_of_the_architecture(case):
    model, x, blind = case
    result = sc.prune(model, x, ratio=0.4, scope="local")
    other = nets.randomise(copy.deepcopy(model), seed=7)
    plan = sc.Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    cut, masked = plan.apply(other), copy.deepcopy(other)
    with torch.no_grad():
        blind(masked, result)
    torch.testing.assert_close(run(cut, x), run(masked, x), rtol=1e-10, atol=1e-10)


def test_kept_statistics_are_those_of_the_kept_positions():
    """A layer norm over the cut axis: the reference normalises the kept channels by hand."""
    model, x = nets.randomise(nets.Normed()), torch.randn(5, 4)
    result = sc.prune(model, x, ratio=0.5)
    keep = list(result.plan.keep["first"])
    hidden = model.double().first(x.double())[:, keep]
    centred = hidden - hidden.mean(1, keepdim=True)
    normed = centred / (hidden.var(1, correction=0, keepdim=True) + model.norm.eps).sqrt()
    expected = (normed * model.norm.weight[keep] + model.norm.bias[keep]) @ model.last.weight[:, keep].T
    torch.testing.assert_close(run(result.model, x), expected + model.last.bias, rtol=1e-10, atol=1e-10)
    assert result.verdict.renormalised
    assert not result.verdict.exact
    assert "layer_norm" in result.verdict.renormalised_by[0]


def test_a_runtime_scale_stays_what_it_was():
    model, x = nets.randomise(nets.RuntimeScale()), torch.randn(2, 4)
    result = sc.prune(model, x, ratio=0.5)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.last.weight[:, gone(result, "first")] = 0
    require_equal(masked, result, x)
    assert [str(one) for one in result.plan.corrections[""]] == [
        f"`x.shape[-1] ** 0.5` in RuntimeScale.forward: {4**0.5} -> {8**0.5}"
    ]


class Squeezing(nn.Module):
    """A squeeze without a dim would also drop a channel dim that was cut to one."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.other, self.join = nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x):
        hidden = nn.functional.adaptive_avg_pool2d(self.first(x), 1).squeeze()
        return self.last(hidden) + self.join(self.other(x[:, :, 0, :4].flatten(1)))


def test_a_dim_that_would_vanish_is_left_alone():
    result = sc.prune(
        nets.randomise(Squeezing()), torch.randn(2, 3, 5, 5), ratio=0.9, scope="local", min_keep=0
    )
    assert result.verdict.exact
    assert result.model.first.out_channels == 4
    assert "does not follow a cut" in result.plan.reasons["first"]
    assert result.model.other.out_features == 1


class Noisy(nn.Module):
    """Draws random numbers in eval mode, of a size that nothing cuts."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(nn.functional.dropout(self.middle(self.first(x).relu()), training=True))


def test_noise_in_eval_mode_stays_the_same_on_both_sides():
    result = sc.prune(nets.randomise(Noisy()), torch.randn(2, 4), ratio=0.5)
    assert result.verdict.exact
    assert list(result.plan.keep) == ["first"]
    assert "noise is on in eval mode" in result.plan.reasons["middle"]


def test_the_global_random_numbers_are_not_consumed():
    model = Noisy()
    state = torch.get_rng_state()
    sc.prune(model, torch.zeros(2, 4), ratio=0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_plan():
    model, x = nets.Residual(), torch.randn(2, 3, 6, 6)
    plans = [sc.prune(model, x, ratio=0.4, criterion="random", seed=seed).plan for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].keep != plans[2].keep


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}])
def test_example_inputs_may_be_a_tensor_a_tuple_or_a_dict(wrap):
    result = sc.prune(nets.Residual(), wrap(torch.randn(2, 3, 6, 6)), ratio=0.5)
    assert result.verdict.exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_element_type_and_memory_format_stay(dtype):
    model = nets.Residual().to(dtype).to(memory_format=torch.channels_last)
    result = sc.prune(model, torch.randn(2, 3, 6, 6, dtype=dtype), ratio=0.5)
    assert result.model.inner.weight.dtype == dtype
    assert result.model.inner.weight.is_contiguous(memory_format=torch.channels_last)
    assert result.verdict.exact


# Protection.


def test_protected_modules_keep_their_shapes():
    result = sc.prune(nets.Residual(), torch.randn(2, 3, 6, 6), ratio=0.5, protect=["head"])
    assert result.model.head.weight.shape == (5, 32)
    assert result.model.inner.weight.shape == (3, 8, 3, 3)
    with pytest.raises(RequestError, match="asked for by protect='inner'"):
        sc.prune(nets.Residual(), torch.randn(2, 3, 6, 6), ratio=0.5, protect=["inner"])


@pytest.mark.parametrize("pattern", ["inner_norm", "inner_norm.*", "inner_norm.weight", "inn*norm"])
def test_a_pattern_fits_modules_and_parameters(pattern):
    result = sc.prune(nets.Residual(), torch.randn(2, 3, 6, 6), ratio=0.3, protect=[pattern])
    assert result.model.inner.out_channels == 6
    assert result.model.stem.out_channels < 8
    assert result.plan.reasons["inner"] == f"asked for by protect='{pattern}'"


# Bad input.


def refusal(*args, **kwargs):
    with pytest.raises(RequestError) as caught:
        sc.prune(*args, **kwargs)
    assert caught.value.exit_code == 2
    return str(caught.value)


X = torch.randn(2, 3, 6, 6)


def test_inputs_without_a_tensor_are_refused():
    assert refusal(nets.Residual(), "image", ratio=0.5) == (
        "example_inputs is str and holds no tensor\n"
        "  pass a tensor, a tuple of positional inputs, or a dict of keyword inputs"
    )


def test_an_unknown_criterion_gets_a_suggestion():
    assert "did you mean 'bn-scale'?" in refusal(nets.Residual(), X, ratio=0.5, criterion="bn-scal")


def test_budgets_exclude_each_other():
    assert refusal(nets.Residual(), X, ratio=0.5, macs=0.5).startswith("2 budgets were given: ratio, macs")
    assert refusal(nets.Residual(), X).startswith("0 budgets were given: none")


@pytest.mark.parametrize("wrong", [{"macs": 0}, {"params": -1}, {"macs": float("nan")}])
def test_a_budget_is_positive(wrong):
    assert "pass the" in refusal(nets.Residual(), X, **wrong)


def test_a_pattern_that_fits_nothing_is_refused():
    message = refusal(nets.Residual(), X, ratio=0.5, protect=["layer9.*"])
    assert message.startswith("protect pattern 'layer9.*' fits no module and no parameter")
    assert "inner" in message


def test_where_everything_is_protected_every_group_has_its_reason():
    message = refusal(nets.Residual(), X, ratio=0.5, protect=["*"])
    for line in ("stem: asked for by protect='*'", "inner: asked for by protect='*'", "head: asked for"):
        assert line in message


def test_a_model_that_does_not_run_is_named_with_the_cause():
    with pytest.raises(
        CaptureError, match=r"does not run on the example inputs(.|\n)*input shapes: \[2, 7\]"
    ):
        sc.prune(nets.Residual(), torch.randn(2, 7), ratio=0.5)


def test_a_model_that_returns_no_tensor_is_refused():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(CaptureError, match="returned NoneType, which holds no tensor"):
        sc.prune(Silent(), X, ratio=0.5)


def test_a_result_prints_what_a_user_wants_to_see():
    result = sc.prune(nets.Residual(), X, ratio=0.5)
    for text in ("pruned Residual", "parameters", "MACs", "asked ratio=0.5; removed 50.0%", "exact: masked"):
        assert text in str(result)
    assert "not asked for" in str(sc.prune(nets.Residual(), X, ratio=0.5, check=False))


# torchvision.

EXACT = ["resnet18", "densenet121", "mobilenet_v2", "googlenet", "efficientnet_b0", "shufflenet_v2_x1_0"]
EXTRA = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
ON_META = ("vgg", "alexnet", "resnet", "wide", "resnext", "convnext", "densenet", "squeezenet")
SLOW_TO_RECORD = {"efficientnet_v2_s", "densenet121"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("resnet18", "shufflenet_v2_x1_0") else pytest.mark.slow)
        for name in EXACT
    ],
)
def test_torchvision_networks_are_exact(name):
    model = getattr(torchvision.models, name)(**EXTRA.get(name, {}))
    result = sc.prune(model, torch.randn(1, 3, 64, 64), ratio=0.5)
    assert result.verdict.exact, str(result.verdict)
    assert result.model.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 1000)
    assert result.verdict.relative_error < 1e-9
    assert abs(result.plan.achieved - 0.5) < 0.05
    assert result.after.macs < 0.7 * result.before.macs


FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "vgg11_bn",
    "wide_resnet50_2",
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_RECORD else ()) for name in FAMILIES],
)
def test_macs_of_torchvision_cnns_are_half_the_flops_that_pytorch_counts(name):
    device = torch.device("meta" if name.startswith(ON_META) else "cpu")
    with device:
        model = getattr(torchvision.models, name)(**EXTRA.get(name, {})).eval()
    x = torch.zeros(2, 3, 96, 96, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    cost = sc.measure(model, x)
    assert 2 * cost.macs == counter.get_total_flops()
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


def test_macs_count_attention():
    batch, length, width, heads = 2, 5, 12, 3
    projections = batch * length * width * (3 * width + width)
    attention = 2 * batch * heads * length * length * (width // heads)
    assert sc.measure(nets.Attention(), torch.zeros(2, 5, 12)).macs == projections + attention


def test_macs_after_the_cut_are_those_of_the_cut_model():
    result = sc.prune(nets.Residual(), X, ratio=0.5)
    with FlopCounterMode(display=False) as counter:
        result.model(X)
    assert 2 * result.after.macs == counter.get_total_flops()
    assert result.after == sc.measure(result.model, X)


def _time_of_coupling(depth):
    layers = [
        layer for _ in range(depth) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    ]
    model = nn.Sequential(*layers).eval()
    start = time.perf_counter()
    assert len(sc.couple(model, torch.zeros(1, 4, 4, 4)).prunable) == depth - 1
    return time.perf_counter() - start


@pytest.mark.slow
def test_the_time_to_couple_grows_about_linearly_with_depth():
    _time_of_coupling(10)
    assert _time_of_coupling(400) / np.median([_time_of_coupling(40) for _ in range(3)]) < 30


class AuxiliaryHead(nn.Module):
    """Has a head that only runs in training, as googlenet and inception_v3 do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 4)
        self.auxiliary = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        early = self.auxiliary(x.mean((2, 3))) if self.training else None
        late = self.head(self.body(x).relu().mean((2, 3)))
        return late if early is None else (late, early)


def test_what_only_training_reads_is_left_whole_so_that_the_cut_model_still_trains():
    result = sc.prune(AuxiliaryHead(), torch.zeros(2, 3, 8, 8), ratio=0.5)
    assert result.groups["stem"].reason == "read by auxiliary.weight, which only runs in training mode"
    assert set(result.plan.keep) == {"body"}
    late, early = result.model.train()(torch.randn(2, 3, 8, 8))
    assert late.shape == early.shape == (2, 4)
