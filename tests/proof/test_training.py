"""Integers that only the training mode reads: they follow a cut, or what they hold stays whole."""

from itertools import product
from types import SimpleNamespace

import nets
import pytest
import torch
from torch import nn

import secateur as sc

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A width under a name that says nothing, and that no constructor passes on."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 4)
        self.k = int("16")
        self.sizes = SimpleNamespace(rows=(0, int("16")))

    def forward(self, x):
        y = self.a(x)
        return self.b((self.changed(y) if self.training else y).relu())


class Rows(Net):
    def changed(self, y):
        return y.reshape(-1, self.k)


class Held(Net):
    """The number lies in a tuple of an object."""

    def changed(self, y):
        return y.reshape(-1, self.sizes.rows[1])


class Halves(Net):
    """The number takes part in a term."""

    def changed(self, y):
        return y.reshape(-1, 2 * (self.k // 2))


class DropPath(Net):
    """Samples are dropped by a mask that is as wide as they are."""

    def changed(self, y):
        kept = torch.empty(y.shape[0], 1).bernoulli_(0.5)
        return y * kept.expand(y.shape[0], self.k)


class Alike(Net):
    """Both modes call the same operators with the same numbers, which come from different places."""

    def forward(self, x):
        y = self.a(x)
        return self.b(y.reshape(-1, self.k if self.training else y.shape[1]).relu())


class Lucky(Net):
    """Layers are left out by chance: numbers decide what runs."""

    def forward(self, x):
        y = self.a(x)
        if self.training and float(torch.rand(())) < 2:
            y = y.reshape(-1, self.k)
        return self.b(y.relu())


class Supervised(Rows):
    """A head for training on the way, behind the rows."""

    def __init__(self):
        super().__init__()
        self.c, self.aux = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        y = super().forward(x)
        return (self.c(y), self.aux(y)) if self.training else self.c(y)


class Written(Net):
    def changed(self, y):
        return y.reshape(-1, 16)


class Scaled(Net):
    """Following the number would change what is computed with it."""

    def changed(self, y):
        return y.reshape(-1, self.k) / self.k


class Divided(Net):
    """Training divides by what is named as a width is."""

    def __init__(self, width=16):
        super().__init__()
        self.width, self.a = width, nn.Linear(6, width)

    def changed(self, y):
        return y / self.width


class WrittenAux(nn.Module):
    """Deep supervision as GoogLeNet has it, with the size of its map in the code."""

    def __init__(self):
        super().__init__()
        self.stem, self.aux = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 4 * 4, 5)
        self.pool, self.body, self.head = nn.AdaptiveAvgPool2d(4), nn.Conv2d(8, 12, 3), nn.Linear(12, 5)

    def forward(self, x):
        y = self.stem(x).relu()
        out = self.head(self.body(y).relu().mean((2, 3)))
        return (out, self.aux(self.pool(y).view(-1, 128))) if self.training else out


FOLLOWING = (Rows, Held, Halves, DropPath, Alike, Lucky)
HELD = (Written, Scaled)


@pytest.mark.parametrize(("kind", "check"), [*product(FOLLOWING, (True, False))])
def test_a_number_that_only_training_reads_follows_the_cut(kind, check):
    model = nets.randomise(kind().eval())
    result = sc.prune(model, X, ratio=0.5, check=check)
    cut = result.model
    assert (cut.a.out_features, model.k, model.sizes.rows) == (8, 16, (0, 16))
    torch.manual_seed(0)
    made = cut.train()(X)
    expected = cut.eval()(X)
    if kind is DropPath:
        is_there = (made - cut.b.bias).abs().sum(1) > 1e-6
        assert 0 < is_there.sum() < 8
        made, expected = made[is_there], expected[is_there]
    torch.testing.assert_close(made, expected)


@pytest.mark.parametrize(("kind", "check"), [*product(HELD, (True, False))])
def test_what_a_number_of_training_holds_stays(kind, check):
    model = nets.randomise(kind().eval())
    reason = r"a: the model's code does not follow a cut \(in training mode argument .* is .* where .* is"
    with pytest.raises(sc.errors.RequestError, match=reason):
        sc.prune(model, X, ratio=0.5, check=check)


@pytest.mark.parametrize("check", [True, False])
def test_a_width_that_training_computes_with_stays(check):
    cut = sc.prune(nets.randomise(Divided().eval()), X, ratio=0.5, check=check).model
    assert (cut.a.out_features, cut.width) == (8, 16)
    torch.testing.assert_close(cut.train()(X), cut.b((cut.a(X) / 16).relu()))


@pytest.mark.parametrize("check", [True, False])
def test_auxiliary_heads_train_after_a_cut(check):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = nets.randomise(WrittenAux().eval())
    cut = sc.prune(model, images, ratio=0.5, scope="local", check=check).model
    assert (cut.stem.out_channels, cut.body.out_channels) == (8, 6)
    out, aux = cut.train()(images)
    torch.testing.assert_close(out, cut.eval()(images))
    torch.testing.assert_close(aux, model.train()(images)[1])


@pytest.mark.parametrize("check", [True, False])
def test_numbers_follow_before_an_auxiliary_head(check):
    model = nets.randomise(Supervised().eval())
    cut = sc.prune(model, X, ratio=0.5, check=check).model
    assert (cut.k, cut.a.out_features, cut.b.out_features) == (8, 8, 4)
    out, aux = cut.train()(X)
    torch.testing.assert_close(out, cut.eval()(X))
    assert aux.shape == (8, 2)


def test_a_plan_of_training_integers_can_be_saved_and_applied(tmp_path):
    model = nets.randomise(Rows().eval())
    result = sc.prune(model, X, ratio=0.5)
    loaded = sc.load(sc.save(result, tmp_path / "half"), Rows())
    assert loaded.k == 8
    torch.testing.assert_close(loaded.train()(X), result.model.train()(X))
    assert sc.check(model, result.plan, X).exact


def test_where_the_proof_by_number_alone_judges_training_it_finds_a_stale_number():
    model = nets.randomise(Lucky().eval())
    plan = sc.prune(model, X, ratio=0.5).plan
    stale = plan.model_copy(update={"attributes": {}})
    assert "k" in {path for paths in plan.attributes.values() for path in paths}
    verdict = sc.check(model, stale, X)
    assert not verdict.passed
    assert "in training mode" in verdict.failure
