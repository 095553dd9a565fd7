"""Backward elimination beside brute force: every subset of a tiny layer solved by least squares."""

from itertools import combinations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.coupling import products
from secateur.score import consumers
from secateur.score.elimination import Consumer, InputMoments, eliminate, shrinkage, shrunk
from secateur.score.few_rows import FewRows


def _problem(rows=200, units=5, width=2, others=1, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = units * width + others
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, size, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(size, outputs, generator=generator, dtype=torch.float64)
    where = torch.randperm(size, generator=generator)[: units * width].view(units, width)
    return x, weight, where


def _left(x, weight, where, gone):
    """The error of the best weight for the inputs that stay, as a share of the output."""
    keep = torch.ones(len(weight), dtype=torch.bool)
    keep[where[list(gone)].flatten()] = False
    wanted = x @ weight
    found = torch.linalg.lstsq(x[:, keep], wanted).solution if keep.any() else torch.zeros(0, weight.shape[1])
    left = wanted - x[:, keep] @ found.double()
    return float(left.square().sum() / wanted.square().sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("together", [2, 64])
def test_the_errors_are_those_of_least_squares(seed, together):
    x, weight, where = _problem(seed=seed)
    found = eliminate([Consumer(InputMoments(x.T @ x), weight, where)], together=together)
    for gone in range(1, 6):
        if together == 2 and gone in (1, 4):  # within a round the joint error is divided
            continue
        expected = _left(x, weight, where, found.order[:gone].tolist())
        assert float(found.errors[gone]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_to_go_is_the_best_of_all_and_each_next_the_best_after_it(seed):
    x, weight, where = _problem(seed=seed)
    order = eliminate([Consumer(InputMoments(x.T @ x), weight, where)], together=64).order.tolist()
    for count in range(1, 5):
        base = order[: count - 1]
        errors = {one: _left(x, weight, where, [*base, one]) for one in range(5) if one not in base}
        assert order[count - 1] == min(errors, key=errors.get)
    best = min(_left(x, weight, where, gone) for gone in combinations(range(5), 2))
    assert _left(x, weight, where, order[:2]) <= 1.5 * best + 1e-9  # greedy, not optimal


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("width", "counts"), [(1, None), (3, torch.tensor([0.5, 2.0, 1.0]).double())])
def test_few_rows_give_what_their_products_give(seed, width, counts):
    x, weight, where = _problem(rows=6, units=24, width=width, others=2, seed=seed)
    few = FewRows(0.8 * x, 0.36 * x.square().sum(0))
    one = eliminate([Consumer(InputMoments(few), weight, where, counts)])
    other = eliminate([Consumer(InputMoments(few.dense()), weight, where, counts)])
    assert one.order.tolist() == other.order.tolist()
    torch.testing.assert_close(one.errors, other.errors, rtol=1e-6, atol=1e-9)


def test_two_readers_add_up_each_in_units_of_its_own_output():
    x, weight, where = _problem(others=0)
    one = Consumer(InputMoments(x.T @ x), weight, where)
    loud = Consumer(InputMoments(1e6 * (x.T @ x)), 1e3 * weight, where)
    alone, both = eliminate([one]), eliminate([one, loud])
    assert alone.order.tolist() == both.order.tolist()
    torch.testing.assert_close(both.errors, 2 * alone.errors)
    assert float(alone.errors[-1]) == pytest.approx(1.0, rel=1e-4)  # all inputs gone, all of the output


def test_shrunk_to_the_diagonal_the_price_is_that_of_squares():
    x, weight, where = _problem(width=1, others=0)
    second = shrunk(x.T @ x, 1.0)
    found = eliminate([Consumer(InputMoments(second), weight, where)], together=64)
    price = (weight.square().sum(1) * second.diagonal())[where[:, 0]]
    assert found.order.tolist() == price.argsort().tolist()
    torch.testing.assert_close(
        found.errors[1:], price.sort().values.cumsum(0) / price.sum(), rtol=1e-4, atol=0
    )


def test_the_fewer_samples_the_more_is_shrunk():
    x, _, _ = _problem(rows=4000)

    def share(rows):
        made = x[:rows, :, None] * x[:rows, None, :]
        return shrinkage(made.mean(0), made.square().mean(0), rows)

    assert 0 < share(4000) < share(200) < share(20) <= 1


class Twins(nn.Module):
    """Channels 1 and 4 say the same, so one of them costs nothing."""

    def __init__(self, second):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = second
        with torch.no_grad():
            self.first.weight[4], self.first.bias[4] = self.first.weight[1] * 2, self.first.bias[1] * 2

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


READERS = {
    "convolution": lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1),
    "flatten": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 5)),
    "pooled": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    "pool between": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 5, 1)),
    "branches": lambda: _Branches(),
}


class _Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.one(x) + self.two(x)


@pytest.mark.parametrize("kind", READERS)
def test_a_channel_that_another_one_stands_for_goes_first_and_is_made_up_for(kind):
    torch.manual_seed(0)
    model = Twins(READERS[kind]())
    data = [torch.randn(64, 3, 8, 8) for _ in range(8)]
    result = sc.prune(
        model, data[0][:1], channels={"first": 1 / 6}, criterion="after-refit", data=data, scope="local"
    )
    (kept,) = [group.keep for group in result.plan.groups if len(group.keep) < group.size]
    assert set(range(6)) - set(kept) <= {1, 4}
    better = sc.recover(result, data, ["refit"])
    assert better.errors[-1].after < 1e-3


def test_the_plan_does_not_hang_on_how_many_groups_fit_into_a_pass(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    data = [torch.randn(32, 8) for _ in range(4)]
    words = {"ratio": 0.5, "criterion": "after-refit", "data": data}
    passes = []
    gather = consumers._gather
    monkeypatch.setattr(consumers, "_gather", lambda *given: passes.append(given) or gather(*given))
    whole = sc.plan(model, data[0][:1], **words)
    assert len(passes) == 1
    monkeypatch.setattr(consumers, "MEMORY_BYTES", 1)
    assert sc.plan(model, data[0][:1], **words).keep == whole.keep
    assert len(passes) == 3


@pytest.mark.parametrize("groups", [1, 2])
def test_it_does_not_matter_whether_rows_are_held_or_their_products_or_in_which_pieces(monkeypatch, groups):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, groups=1), nn.ReLU(), nn.Conv2d(32, 8, 3, groups=groups), nn.ReLU(), nn.Flatten()
    ).append(nn.Linear(8, 4))
    data = [torch.randn(3, 3, 5, 5) for _ in range(4)]
    words = {"ratio": 0.5, "criterion": "after-refit", "data": data}
    held = sc.plan(model, data[0][:1], **words)
    monkeypatch.setattr(consumers, "_INPUTS_PER_ROW", 10**6)
    assert sc.plan(model, data[0][:1], **words).keep == held.keep
    monkeypatch.setattr(consumers, "_HELD", 1)
    monkeypatch.setattr(products, "_BLOCK", 7)
    assert sc.plan(model, data[0][:1], **words).keep == held.keep


def test_a_group_that_no_layer_reads_is_left_alone_with_the_reason():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6)

        def forward(self, x):
            weights = torch.softmax(torch.einsum("bid,bjd->bij", self.query(x), self.key(x)), -1)
            return (weights @ self.value(x)).sum(-1)

    data = [torch.randn(4, 5, 8) for _ in range(4)]
    with pytest.raises(sc.errors.RequestError, match="needs a layer that reads it"):
        sc.prune(Scores(), data[0], ratio=0.5, criterion="after-refit", data=data)


def test_layers_that_read_one_value_share_its_sums_and_groups_nothing_is_asked_of_have_none(monkeypatch):
    added = []
    plain = consumers._add
    monkeypatch.setattr(consumers, "_add", lambda *args: (added.append(args[1].name), plain(*args)))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.two, self.end = (
                nn.Linear(6, 8),
                *(nn.Linear(8, 8) for _ in "ab"),
                nn.Linear(8, 3),
            )

        def forward(self, x):
            h = self.stem(x).relu()
            return self.end((self.one(h) * self.two(h)).tanh())

    torch.manual_seed(0)
    x = torch.randn(64, 6)
    result = sc.prune(Twice(), x[:1], channels={"stem": 0.5}, criterion="after-refit", data=[x])
    assert added == ["one"]
    assert result.plan.reasons["one"] == "nothing is asked of it"
    assert result.model.stem.out_features == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("kind", ["dead", "repeated"])
def test_inputs_that_are_dead_or_repeat_one_another_have_finite_errors(kind, held, dtype):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 1, generator=generator, dtype=dtype).expand(8, 64).clone()
    if kind == "dead":
        rows.zero_()
    weight = torch.randn(64, 5, generator=generator, dtype=dtype)
    share = 0.02 if dtype == torch.float32 else 1e-7  # with less the sums are in float64
    few = FewRows(rows * (1 - share) ** 0.5, share * rows.square().sum(0))
    moments = few if held else few.dense()
    counts = torch.ones(5, dtype=torch.float64)
    found = eliminate([Consumer(InputMoments(moments), weight, torch.arange(64).view(32, 2), counts)])
    assert sorted(found.order.tolist()) == list(range(32))
    assert bool(torch.isfinite(found.errors).all())
    whole = 0.5 * (rows @ weight).double().square().sum()  # the last of the repeated ones carries all
    torch.testing.assert_close(found.errors[-1], whole, rtol=0.05, atol=1e-6)
    assert found.errors[-2] <= 0.05 * whole + 1e-6
