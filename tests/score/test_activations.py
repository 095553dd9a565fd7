"""Statistics of activations are those that hooks on the activation layers see."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.capture import capture
from secateur.capture.batches import Samples
from secateur.coupling import couple_graph
from secateur.errors import CaptureError, RequestError
from secateur.score import choose, score
from secateur.score.moments import Moments
from secateur.score.values import Reading

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.first, self.second, self.third = nn.ReLU(inplace=True), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x):
        x = F.max_pool2d(self.first(self.norm(self.stem(x))), 2)
        x = self.third(x + self.outer(self.second(self.inner(x))))
        return self.head(x.flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Residual().double().eval()
    nn.init.normal_(net.norm.weight)
    nn.init.normal_(net.norm.bias)
    return net


@pytest.fixture
def data():
    return list(torch.randn(9, 3, 8, 8, dtype=torch.float64).split(4))


def _scores(net, name, data, example=EXAMPLE):
    groups = couple_graph(capture(net, example.double()))
    return score(net, groups, choose(name, normalise="none"), data=Samples(data, net, example)).by_group


def _seen(net, data):
    """By hooks: the outputs of the three activation layers, channels first."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.clone()}))
        for name, module in net.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    with torch.no_grad():
        net(torch.cat(data))
    for handle in handles:
        handle.remove()
    return seen


FORMULAS = {
    "activation-mean": lambda maps: maps.mean((0, 2, 3)),
    "activation-abs": lambda maps: maps.abs().mean((0, 2, 3)),
    "activation-variance": lambda maps: maps.var((0, 2, 3), correction=0),
    "vbp": lambda maps: maps.var((0, 2, 3), correction=0),
    "apoz": lambda maps: (maps != 0).double().mean((0, 2, 3)),
    "hrank": lambda maps: torch.linalg.matrix_rank(maps).double().mean(0),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_are_what_hooks_see(name, net, data):
    seen = {key: FORMULAS[name](maps) for key, maps in _seen(net, data).items()}
    scores = _scores(net, name, data)
    torch.testing.assert_close(scores["inner"], seen["second"])
    # The stream is read twice: behind the stem and behind the addition.
    torch.testing.assert_close(scores["stem"], (seen["first"] + seen["third"]) / 2)


def test_aggregates_join_the_activations_of_a_group(net, data):
    seen = {key: maps.mean((0, 2, 3)) for key, maps in _seen(net, data).items()}
    scores = _scores(net, choose("activation-mean", aggregate="max"), data)
    torch.testing.assert_close(scores["stem"], torch.maximum(seen["first"], seen["third"]))


class Joined(nn.Module):
    """A concatenation, and a channel shuffle behind it: sums and products of axes."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Conv2d(10, 2, 1)

    def forward(self, x):
        return self.head(torch.cat([self.left(x), self.right(x)], 1).tanh())


def test_channels_of_a_concatenation_are_found(data):
    torch.manual_seed(0)
    net = Joined().double()
    scores = _scores(net, "activation-mean", data)
    for name in ("left", "right"):
        expected = getattr(net, name)(torch.cat(data)).tanh().mean((0, 2, 3))
        torch.testing.assert_close(scores[name], expected)


class Tokens(nn.Module):
    """Maps that become tokens, in one of many spellings."""

    def __init__(self, turn):
        super().__init__()
        self.turn, self.stem, self.head = turn, nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.turn(self.stem(x).tanh()))


TURNS = {
    "transpose": lambda x: x.flatten(2).transpose(1, 2),
    "swapaxes": lambda x: x.reshape(*x.shape[:2], -1).swapaxes(1, 2),
    "swapdims": lambda x: x.flatten(2).swapdims(-1, -2),
    "mT": lambda x: x.flatten(2).mT,
    "adjoint": lambda x: x.flatten(2).adjoint(),
    "movedim": lambda x: x.movedim(1, -1).flatten(1, 2),
    "moveaxis": lambda x: x.moveaxis(1, -1).reshape(len(x), -1, x.shape[1]),
    "permute": lambda x: x.permute(0, 2, 3, 1).contiguous().view(len(x), -1, x.shape[1]),
    "mean": lambda x: x.mean((2, 3)),
    "amax": lambda x: x.amax((2, 3)),
    "max": lambda x: x.flatten(2).max(-1).values,
    "padded": lambda x: F.pad(x, (0, 1, 2, 0), value=float("-inf")).amax((2, 3)),
    "pool": lambda x: F.adaptive_avg_pool2d(x, 2).unflatten(1, (1, -1)).squeeze(1).flatten(2).mT,
    "type_as": lambda x: x.type_as(x).clone().roll(1, 2).flatten(2).mT,
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_activations_are_seen_at_the_same_place_however_they_are_turned(turn, data):
    torch.manual_seed(0)
    net = Tokens(turn).double()
    maps = net.stem(torch.cat(data)).tanh()
    scores = _scores(net, "activation-variance", data)
    torch.testing.assert_close(scores["stem"], FORMULAS["activation-variance"](maps))


def test_tokens_that_nobody_reads_are_no_activations(data):
    torch.manual_seed(0)
    net = Tokens(lambda x: x.flatten(2).mT[:, 0]).double()
    first = net.stem(torch.cat(data)).tanh()[:, :, 0, 0]
    torch.testing.assert_close(_scores(net, "activation-mean", data)["stem"], first.mean(0))


def test_heads_are_scored_with_all_their_widths():
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, dropout=0.0).double().eval()
    example = torch.zeros(1, 5, 8)
    data = list(torch.randn(6, 5, 8, dtype=torch.float64).split(3))
    groups = couple_graph(capture(net, example.double()))
    scores = _scores(net, "activation-variance", data, example)
    inside = net.norm1(net.self_attn(*[torch.cat(data)] * 3)[0] + torch.cat(data))
    hidden = net.linear1(inside).relu()
    torch.testing.assert_close(scores["linear1"], hidden.var((0, 1), correction=0))
    (heads,) = [group for group in groups.prunable if group.size == 4]
    out = torch.linalg.solve(
        net.self_attn.out_proj.weight,
        (net.self_attn(*[torch.cat(data)] * 3)[0] - net.self_attn.out_proj.bias).flatten(0, 1).T,
    ).T
    torch.testing.assert_close(
        scores[heads.name], out.unflatten(1, (4, 2)).transpose(0, 1).flatten(1).var(1, correction=0)
    )


def test_merged_moments_are_those_of_the_union():
    rows = torch.randn(4, 30, dtype=torch.float64) + 1e6
    parts = [Moments.of(part) for part in rows.split([1, 20, 9], dim=1)]
    merged = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(merged.variance, rows.var(1, correction=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(merged.mean, rows.mean(1))
    joined = merged.join(torch.tensor([[0, 2], [1, 3]]))
    torch.testing.assert_close(
        joined.variance, rows[[0, 2, 1, 3]].view(2, 60).var(1, correction=0), rtol=1e-9, atol=0
    )
    assert joined.count == 60


def test_a_group_without_maps_is_left_alone_with_the_reason():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = couple_graph(capture(net, torch.zeros(1, 3)))
    found = score(net, groups, "hrank", data=Samples([torch.zeros(2, 3)], net, torch.zeros(1, 3)))
    assert found.skipped == {
        "0": "criterion hrank needs feature maps of height and width, this group has none"
    }


def test_the_input_of_the_network_is_no_activation_of_a_group(net):
    groups = couple_graph(capture(net, EXAMPLE.double()))
    kinds = {
        groups.graph.values[value.value].kind
        for group in groups.prunable
        for value in Reading(groups).of(group)
    }
    assert kinds == {"node"}


def test_a_layer_that_makes_nan_is_named(net, data):
    with torch.no_grad():
        net.inner.bias[1] = float("nan")
    with pytest.raises(CaptureError, match=r"NaN or infinite on batch 0 .* in inner at "):
        _scores(net, "activation-mean", data)


def test_infinite_data_is_named_with_its_batch(net, data):
    data[2][0, 0, 0, 0] = float("inf")
    with pytest.raises(CaptureError, match=r"on batch 2 of the data, first after aten.conv2d .* in stem"):
        _scores(net, "hrank", data)


@pytest.mark.parametrize("name", ["activation-mean", "taylor", "hrank"])
def test_hooks_and_modes_are_gone_after_a_failure(name, net, data):
    with pytest.raises(CaptureError, match="batch 3 of the data"):
        _scores(net, name, [*data, torch.zeros(2, 4, 8, 8, dtype=torch.float64)])
    assert not any(module._forward_hooks for module in net.modules())
    assert net(data[0]).requires_grad
    assert not torch.is_inference_mode_enabled()


def test_data_criteria_refuse_to_go_without_data(net):
    with pytest.raises(RequestError, match="criterion apoz needs data for activations, there is none"):
        sc.prune(net, EXAMPLE.double(), ratio=0.5, criterion="apoz")
    with pytest.raises(RequestError, match="criterion taylor needs data for gradients, there is none"):
        sc.plan(net, EXAMPLE.double(), ratio=0.5, criterion="taylor")
    with pytest.raises(RequestError, match="there is no data"):
        sc.prune(net, EXAMPLE.double(), ratio=0.5, criterion=lambda view: view.activations[0].mean)


def test_a_loader_that_yields_nothing_is_refused(net):
    with pytest.raises(RequestError, match="the data yields no batch"):
        sc.prune(net, EXAMPLE.double(), ratio=0.5, criterion="apoz", data=iter([]))


def test_dicts_generators_and_a_last_batch_of_one_are_taken(net, data):
    whole = sc.prune(net, EXAMPLE.double(), ratio=0.5, criterion="activation-abs", data=data)
    dicts = ({"x": batch, "label": None} for batch in data)
    again = sc.prune(
        net, EXAMPLE.double(), ratio=0.5, criterion="activation-abs", data=dicts, recover=["refit"]
    )
    assert len(data[-1]) == 1
    assert again.plan.keep == whole.plan.keep
    assert again.errors


def test_a_model_without_values_is_refused(data):
    with torch.device("meta"):
        net = Residual()
    with pytest.raises(RequestError, match="runs the model, but the model is on the meta device"):
        sc.plan(net, EXAMPLE, ratio=0.5, criterion="apoz", data=data)


def test_a_callable_sees_activations(net, data):
    def strongest(view):
        return sum(moments.magnitude for moments in view.activations)

    own = sc.prune(net, EXAMPLE.double(), ratio=0.5, scope="local", criterion=strongest, data=data)
    named = sc.prune(net, EXAMPLE.double(), ratio=0.5, scope="local", criterion="activation-abs", data=data)
    assert own.plan.keep == named.plan.keep


class MeanSquare(nn.Module):
    """nn.RMSNorm, written by hand."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Centred(nn.Module):
    """nn.LayerNorm, written by hand."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.weight * (x - mean) / torch.sqrt(variance + 1e-5) + self.bias


class Stream(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.stem, self.norm, self.last = nn.Linear(4, 8), norm(8), norm(8)
        self.inner, self.outer, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = 5 * self.stem(x)
        x = x + self.outer(self.inner(self.norm(x)).relu())
        return self.head(self.last(x))


@pytest.mark.parametrize(
    ("hand", "torchs"), [(MeanSquare, lambda width: nn.RMSNorm(width, eps=1e-6)), (Centred, nn.LayerNorm)]
)
def test_a_norm_by_hand_reads_what_a_norm_reads(hand, torchs):
    torch.manual_seed(0)
    one, two, x = Stream(hand), Stream(torchs), torch.randn(32, 5, 4, dtype=torch.float64)
    two.load_state_dict(one.state_dict())
    found, expected = (
        _scores(net, "activation-variance", [x], x[:1]) for net in (one.double(), two.double())
    )
    for group, scores in expected.items():
        torch.testing.assert_close(found[group], scores)


@pytest.mark.parametrize("name", ["activation-abs", "hrank"])
def test_a_weight_that_is_computed_is_no_activation(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten())
    net = net.append(nn.Linear(64, 2)).double()
    data = [torch.randn(8, 3, 8, 8, dtype=torch.float64)]
    expected = _scores(net, name, data)
    nn.utils.parametrizations.weight_norm(net[2])
    torch.testing.assert_close(_scores(net, name, data)["0"], expected["0"])
