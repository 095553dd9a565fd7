"""What taps say of single samples in one pass is what brute force says of each alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.capture import capture
from secateur.capture.batches import Samples
from secateur.coupling import couple_graph
from secateur.errors import CaptureError
from secateur.score import choose, score, singles
from secateur.score.gates import Gates
from secateur.score.taps import squared


class Residual(nn.Module):
    """A stream that three layers write, one of which reads it as well; a depthwise one inside a branch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding="same")
        self.norm = nn.BatchNorm2d(6)
        self.widen = nn.Conv2d(6, 8, 1, bias=False)
        self.each = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
        self.narrow = nn.Conv2d(8, 6, 1)
        self.straight = nn.Conv2d(6, 6, 3, padding=1, dilation=1, bias=False)
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.last = nn.GroupNorm(3, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        branch = self.narrow(self.each(F.relu6(self.widen(x))))
        x = F.max_pool2d(x, 2, ceil_mode=True)
        x = x + branch
        x = x + self.scale * self.straight(x)
        return self.head(F.silu(self.last(x), inplace=True).mean((2, 3)))


class Words(nn.Module):
    """Attention by heads over embedded words, the positions added by a parameter, time in front inside."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12)
        self.out = nn.Linear(12, 8, bias=False)
        self.mix = nn.MultiheadAttention(8, 2)
        self.small = nn.RMSNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, words):
        x = self.words(words) + self.places
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        read = self.norm(x)
        q, k, v = (part(read).unflatten(-1, (3, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        turned = x.transpose(0, 1)
        x = x + self.mix(turned, turned, turned, need_weights=False)[0].transpose(0, 1)
        return self.head(self.small(x)[:, 0])


class Rows(nn.Module):
    """Matrix products with parameters, convolutions of several kinds."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.added = nn.Parameter(torch.randn(6))
        self.along = nn.Conv1d(6, 8, 3, groups=2)
        self.up = nn.ConvTranspose1d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.addmm(self.added, x.flatten(0, 1), self.weight).tanh().unflatten(0, (-1, 6))
        return self.head(self.up(self.along(x.transpose(1, 2)).tanh()).tanh().mean(2))


def _net(kind):
    torch.manual_seed(0)
    net = kind()
    for held in net.parameters():
        nn.init.normal_(held, std=0.5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    return net.double().eval()


def _data(kind, sizes=(5, 2)):
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        labels = torch.randint(0, 3, (size,), generator=generator)
        if kind is Words:
            yield torch.randint(0, 11, (size, 5), generator=generator), labels
        else:
            shape = (2, 7, 7) if kind is Residual else (6, 4)
            yield torch.randn(size, *shape, generator=generator, dtype=torch.float64), labels


def _brute(net, groups, data):
    """Of each group, by gradients of each sample alone: (sum over p)^2 and 1/2 sum over p of squares."""
    gates = Gates.of(net, groups.prunable)
    held = dict(net.named_parameters())
    ones = {name: value.detach() for name, value in held.items()}
    masks = {}
    for group in groups.prunable:
        for channel in range(group.size):
            gate = {group.name: torch.eye(group.size, dtype=torch.float64)[channel]}
            one = Gates({group.name: group.size}, {group.name: gates.shares[group.name]})
            masks[group.name, channel] = one.spread(gate, ones)
    square = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups.prunable}
    diagonal = {name: zeros.clone() for name, zeros in square.items()}
    count = 0
    for inputs, labels in data:
        for at in range(len(labels)):
            loss = F.cross_entropy(net(inputs[at : at + 1]), labels[at : at + 1])
            found = torch.autograd.grad(loss, list(held.values()), allow_unused=True, materialize_grads=True)
            entries = {name: g * ones[name] for name, g in zip(held, found, strict=True)}
            for (name, channel), moved in masks.items():
                parts = [(entries[at], mask.expand_as(entries[at])) for at, mask in moved.items()]
                square[name][channel] += sum((entry * mask).sum() for entry, mask in parts) ** 2
                diagonal[name][channel] += 0.5 * sum((entry**2 * mask).sum() for entry, mask in parts)
            count += 1
    return tuple({name: value / count for name, value in sums.items()} for sums in (square, diagonal))


def _score(net, groups, criterion, data):
    example = data[0][0][:2]
    raw = choose(criterion, normalise="none")
    return score(net, groups, raw, data=Samples(data, net, example)).by_group


@pytest.mark.parametrize("kind", [Residual, Words, Rows])
def test_taps_say_what_each_sample_alone_says(kind, monkeypatch):
    net, data = _net(kind), list(_data(kind))
    groups = couple_graph(capture(net, data[0][0][:2]))
    differentiated = []
    each = singles.Singles._each

    def told(self, sample, split, names):
        differentiated.append(set(names))
        return each(self, sample, split, names)

    monkeypatch.setattr(singles.Singles, "_each", told)
    square, diagonal = _brute(net, groups, data)
    assert len(square) > 1
    found = _score(net, groups, "jacobian", data)
    assert not differentiated
    for name, expected in square.items():
        torch.testing.assert_close(found[name], expected)
    found = _score(net, groups, "fisher", data)
    assert all(names == {"up.weight", "up.bias"} for names in differentiated)
    for name, expected in diagonal.items():
        torch.testing.assert_close(found[name], expected)


def test_the_residual_network_has_what_is_hard():
    """Several producers, slices that meet in one weight, a depthwise layer."""
    net = _net(Residual)
    groups = couple_graph(capture(net, torch.zeros(2, 2, 7, 7, dtype=torch.float64)))
    stream, _ = groups.prunable
    assert {"stem.weight", "narrow.weight", "straight.weight"} <= {held.tensor for held in stream.members}
    margins = Gates.of(net, groups.prunable).margins()
    assert (0, 1) in margins["straight.weight"]
    assert margins["each.weight"] == {(0,)}


class _Rounded(torch.autograd.Function):
    """Rounds, with a derivative of its own, which operators do not tell."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Rounding(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(_Rounded.apply(self.read(x)).mean(1))


class Recurrent(nn.Module):
    """Its weights are read by an operator that taps do not know, but for those of the last layer."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x):
        return self.head(self.lstm(x)[0].mean(1))


class Shared(nn.Module):
    """A layer reads rows that all samples share, as many as would be some of each: neither order is right."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(10, 4))
        self.keys, self.queries = nn.Linear(4, 5), nn.Linear(4, 5)
        self.head = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x):
        return self.head((self.queries(x) @ self.keys(self.rows).T).tanh().mean(1))


class Unread(nn.Module):
    """The loss is of the first output alone."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(4, 6)
        self.head, self.aside = nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x):
        x = self.read(x).tanh().mean(1)
        return self.head(x), self.aside(x)


def test_what_the_loss_does_not_read_scores_nothing():
    net, data = _net(Unread), list(_data(Unread))
    groups = couple_graph(capture(net, data[0][0][:2]))
    for criterion in ("jacobian", "fisher"):
        found = _score(net, groups, criterion, data)
        assert not bool(found["aside.0"].any())
        assert bool(found["read"].all())


@pytest.mark.parametrize("kind", [Rounding, Recurrent, Shared])
def test_what_taps_do_not_see_is_differentiated_for_each_sample(kind):
    net, data = _net(kind), list(_data(kind))
    groups = couple_graph(capture(net, data[0][0][:2]))
    square, diagonal = _brute(net, groups, data)
    for criterion, expected in (("jacobian", square), ("fisher", diagonal)):
        found = _score(net, groups, criterion, data)
        for name, scores in expected.items():
            torch.testing.assert_close(found[name], scores)


def test_a_loss_with_parameters_of_its_own_gets_no_grad():
    net, data = _net(Residual), list(_data(Residual))
    groups = couple_graph(capture(net, data[0][0][:2]))
    scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def loss(output, target):
        return F.cross_entropy(output * scale, target)

    found = _score(net, groups, choose("jacobian", loss=loss), data)
    assert scale.grad is None
    square, _ = _brute(net, groups, data)
    for name, expected in square.items():
        torch.testing.assert_close(found[name], expected)


class Written(nn.Module):
    """Writes into an activation that a layer has read, as autograd refuses if the weight counts."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        return self.head((self.second(x) + x.mul_(2)).mean(1))


def test_an_activation_that_is_written_into_after_it_was_read_is_refused():
    net, data = _net(Written), list(_data(Written))
    groups = couple_graph(capture(net, data[0][0][:2]))
    with pytest.raises(CaptureError, match="no gradients can be taken"):
        _score(net, groups, "jacobian", data)


@pytest.mark.parametrize("places", [1, 4, 9])
def test_squares_of_products_are_summed(places):
    left, right = torch.randn(5, 2, 3, places).double(), torch.randn(5, 2, 4, places).double()
    torch.testing.assert_close(squared(left, right), (left @ right.mT).square().sum(0))
