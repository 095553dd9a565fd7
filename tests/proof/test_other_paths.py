"""What only training wires, and paths that a record did not take: proven, or left whole with the reason."""

import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.coupling import Recorded

X = torch.randn(4, 6)
IMAGE = torch.randn(1, 3, 8, 8)
LABELS = torch.zeros(4).long()


class Net(nn.Module):
    """Two layers; the subclasses do something else at times."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(6, 16), nn.Linear(16, 3), 0
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x, y=None):
        h = self.a(x)
        if self.is_odd(x):
            h = self.otherwise(h)
        return self.b(h)

    def otherwise(self, h):
        """Wrong or broken with fewer channels."""
        return h.reshape(*h.shape[:-1], 4, 4).softmax(-1).flatten(-2)


class Trains(Net):
    def is_odd(self, x):
        return self.training


class SecondCall(Net):
    def is_odd(self, x):
        self.calls += 1
        return self.calls > 1


class EveryFifth(Net):
    def is_odd(self, x):
        self.calls += 1
        return self.calls % 5 == 0


class CountedInBuffer(Net):
    def is_odd(self, x):
        self.count += 1
        return self.count > 2


class Single(Net):
    def is_odd(self, x):
        return x.shape[0] == 1


class Many(Net):
    def is_odd(self, x):
        return len(x) >= 24


class Long(Net):
    def is_odd(self, x):
        return x.dim() == 3 and x.size(1) > 12


class Lucky(Net):
    def is_odd(self, x):
        return torch.rand(1).item() < 0.4


class LuckyInPython(Net):
    def is_odd(self, x):
        return random.random() < 0.4


class LuckyInNumpy(Net):
    def is_odd(self, x):
        return np.random.uniform() < 0.4


class LuckyInTraining(Net):
    def is_odd(self, x):
        return self.training and random.random() < 0.4


class Loud(Net):
    def is_odd(self, x):
        return bool(x.abs().max() > 6)


CASES = [Trains, SecondCall, EveryFifth, CountedInBuffer, Single, Many, Long]
CASES += [Lucky, LuckyInPython, LuckyInNumpy, LuckyInTraining, Loud]


@pytest.mark.parametrize("case", CASES)
def test_a_path_that_the_record_does_not_take_holds_its_channels(case):
    model = case()
    given = X[:, None].expand(4, 5, 6) if case is Long else X
    groups = sc.couple(model, given)
    reason = groups["a"].reason
    if reason is None:
        with pytest.raises(sc.errors.RequestError, match="no group is free"):
            sc.prune(model, given, ratio=0.5)
    else:
        assert "split otherwise" in reason


@pytest.mark.parametrize("case", CASES)
def test_a_path_that_follows_the_cut_is_proven_too(case):
    class Harmless(case):
        def otherwise(self, h):
            return h.relu() * 2

    given = X[:, None].expand(4, 5, 6) if case is Long else X
    result = sc.prune(Harmless(), given, ratio=0.5)
    assert result.verdict.exact
    assert result.model.a.out_features == 8
    is_training = case in (Trains, LuckyInTraining)
    assert is_training or any("path is another one" in limit for limit in result.verdict.limits)


def test_models_without_other_paths_are_not_asked_for_them():
    class Plain(Net):
        def is_odd(self, x):
            return False

    recorded = Recorded.of(Plain(), X)
    assert recorded.situations == ()
    assert not recorded.graph.leaves_traces
    assert sc.prune(Plain(), X, ratio=0.5).verdict.limits == ()


def test_what_a_thread_holds_is_there_in_the_proof():
    held = threading.local()
    held.scale = 2.0

    class Scaled(Net):
        def forward(self, x):
            return self.b(self.a(x) * held.scale)

    assert sc.prune(Scaled(), X, ratio=0.5).model.a.out_features == 8


class Auxiliary(nn.Module):
    """An auxiliary head reads the stem in training, which takes targets."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 5)
        self.aux = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))

    def forward(self, x, target=None):
        stem = self.stem(x).relu()
        out = self.head(self.body(stem).relu().mean((2, 3)))
        if self.training:
            return F.cross_entropy(out, target) + F.cross_entropy(self.aux(stem), target)
        return out


@pytest.mark.parametrize("data", [None, [(IMAGE, torch.ones(1).long())]])
def test_what_an_auxiliary_head_reads_stays(data):
    result = sc.prune(Auxiliary(), IMAGE, ratio=0.5, data=data)
    assert result.model.stem.out_channels == 16
    assert "aux.0.weight" in result.plan.reasons["stem"]
    assert result.model.body.out_channels == 12
    assert any("not recorded" in limit for limit in result.verdict.limits) == (data is None)
    result.model.train()(IMAGE, torch.ones(1).long()).backward()


def test_a_head_that_training_shares_holds_both_of_its_inputs():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1)
            self.head, self.last = nn.Conv2d(16, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            a = self.a(x).relu()
            b = self.b(a).relu()
            out = self.head(b), self.last(self.c(b).relu())
            return (*out, self.head(a)) if self.training else out

    result = sc.prune(Shared(), IMAGE, ratio=0.25)
    assert (result.model.a.out_channels, result.model.b.out_channels) == (16, 16)
    assert "together with another group in training mode" in result.plan.reasons["a"]
    assert result.model.c.out_channels < 8
    assert len(result.model.train()(IMAGE)) == 3


def test_a_batch_norm_behind_global_pooling_trains_with_one_example():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), nn.BatchNorm1d(16), nn.Linear(16, 4)
            self.aux = nn.Linear(16, 4)

        def forward(self, x):
            h = self.norm(self.a(x).mean((2, 3))).relu()
            return (self.b(h), self.aux(h)) if self.training else self.b(h)

    groups = sc.couple(Pooled(), IMAGE)
    assert groups["a"].reason == "read by aux.bias, which only runs in training mode" or (
        "aux.weight" in str(groups["a"].reason)
    )


def test_layers_left_over_hold_what_could_have_been_theirs_alone():
    """An unused classifier could read the features, and none of what lies inside of the blocks."""

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
            self.neck, self.fc = nn.Conv2d(16, 2, 1), nn.Linear(16, 10)

        def forward(self, x):
            return self.neck(self.block(x))

    reasons = {group.name: group.reason for group in sc.couple(Features(), IMAGE)}
    assert reasons["block.0"] is None
    assert "fc.weight, which no recorded run reads" in reasons["block.2"]


def test_a_mask_token_that_no_record_reads_holds_the_stream():
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.token = nn.Linear(6, 16), nn.Parameter(torch.zeros(1, 1, 16))

        def forward(self, x, masked=None):
            h = self.inner(x)
            return h if masked is None else torch.where(masked, self.token, h)

    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.wide, self.out = Embeds(), nn.Linear(16, 32), nn.Linear(32, 3)

        def forward(self, x, masked=None):
            return self.out(self.wide(self.embed(x, masked)).relu())

    given = torch.randn(2, 5, 6)
    result = sc.prune(Masks(), given, ratio=0.5)
    assert "embed.token, which no recorded run reads" in result.plan.reasons["embed.inner"]
    assert result.model.wide.out_features == 16
    assert result.model(given, torch.ones(2, 5, 1).bool()).shape == (2, 5, 3)


def test_a_cache_is_no_output_in_training_either():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.key, self.out = nn.Linear(6, 16), nn.Linear(16, 6)

        def forward(self, x, past=None):
            key = self.key(x if past is None else x + 0 * past[0].mean())
            return {"y": self.out(torch.tanh(key) if self.training else key.relu()), "past": (key,)}

    assert sc.couple(Cached(), X)["key"].reason is None
