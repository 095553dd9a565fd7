"""The ridge: chosen by rows that a change was not made from, and nothing at all where nothing helps."""

from math import inf

import pytest
import torch

from secateur.coupling import products
from secateur.recovery.gram import RIDGES, Gram, choose_ridge
from secateur.recovery.held_rows import HeldRows


def _gram(x, r):
    gram = Gram(1, x.shape[1], r.shape[1], x.device)
    gram.add(x[None].double(), r[None].double())
    return gram


def _drawn(rows, features, seed):
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_linear_is_found_with_the_smallest_ridge():
    truth = _drawn(6, 100, 9)
    fit, test = (_gram(x, x @ truth) for x in (_drawn(400, 6, 0), _drawn(100, 6, 1)))
    assert choose_ridge(fit, test, has_constant=True) == RIDGES[-1]


def test_what_holds_on_the_rows_alone_changes_nothing():
    """What other rows miss is the opposite: each change, and each constant, makes it worse."""
    x = _drawn(40, 6, 0)
    fit, test = _gram(x, x @ _drawn(6, 3, 1) + 1), _gram(x, -(x @ _drawn(6, 3, 1) + 1))
    assert choose_ridge(fit, test, has_constant=True) is None
    assert choose_ridge(fit, test, has_constant=False) is None
    assert float(fit.nothing().weight.abs().sum()) == 0


def test_a_constant_alone_where_the_inputs_tell_nothing():
    fit, test = (_gram(_drawn(30, 20, seed), torch.full((30, 2), 3.0)) for seed in (0, 1))
    ridge = choose_ridge(fit, test, has_constant=True)
    change = fit.solve(ridge, has_constant=True)
    assert float(test.left_by(change).sum()) < 1e-6
    assert choose_ridge(fit, test, has_constant=False) != inf


@pytest.mark.parametrize("scale", [0.5, 1e3])
def test_a_loud_input_does_not_drown_the_others(scale):
    """The change is the same function of the inputs, whatever unit each of them has."""
    x, r, unit = _drawn(50, 6, 0), _drawn(50, 3, 1), torch.ones(6, dtype=torch.float64)
    unit[2] = scale
    plain = _gram(x, r).solve(0.1, has_constant=True)
    scaled = _gram(x * unit, r).solve(0.1, has_constant=True)
    torch.testing.assert_close(scaled.weight * unit[:, None], plain.weight)


@pytest.mark.parametrize("rows", [400, 5])
@pytest.mark.parametrize("ridge", RIDGES[:4])
def test_an_input_that_is_hardly_ever_on_gets_no_weight_to_blow_up_by(rows, ridge):
    """It is on once, a little, in the rows to learn from, and elsewhere as much as the others are."""
    x, r = _drawn(rows, 6, 0), _drawn(rows, 3, 1)
    x[:, 2] = 0
    x[rows // 2, 2] = 1e-4
    sums = HeldRows(x[None], r[None]) if rows < 6 else _gram(x, r)
    weight = sums.solve(ridge, has_constant=True).weight[0]
    assert weight[2].abs().max() < r.abs().max()


def test_some_outputs_choose_for_all():
    truth = _drawn(8, 300, 3)
    fit, test = (
        _gram(x, x @ truth + 0.5 * _drawn(len(x), 300, 4)) for x in (_drawn(30, 8, 0), _drawn(30, 8, 1))
    )
    assert fit.some().xr.shape[2] == 64
    ridge = choose_ridge(fit, test, has_constant=True)
    left = {one: float(test.left_by(fit.solve(one, has_constant=True)).sum()) for one in RIDGES}
    assert left[ridge] < 1.05 * min(left.values())


@pytest.mark.parametrize("has_constant", [True, False])
@pytest.mark.parametrize("ridge", [1.0, 1e-4])
def test_held_rows_say_what_their_sums_say(has_constant, ridge):
    x, r = (torch.stack([_drawn(7, size, seed) for seed in (0, 1)]) for size in (20, 3))
    x[..., 4] = 2.0  # an input that never varies
    sums = Gram(2, 20, 3, x.device)
    held = HeldRows(x[:, :2], r[:, :2] + 1)
    sums.add(x, r + 1)
    held = held.join(HeldRows(x[:, 2:4], r[:, 2:4] + 1))
    held.add(x[:, 4:], r[:, 4:] + 1)
    one, other = (rows.solve(ridge, has_constant=has_constant) for rows in (sums, held))
    torch.testing.assert_close(other.weight, one.weight)
    torch.testing.assert_close(other.constant, one.constant)
    torch.testing.assert_close(held.left_by(one), sums.left_by(one))
    assert held.missing == pytest.approx(sums.missing)
    held.apply(one)
    sums.apply(one)
    again, expected = (rows.solve(ridge, has_constant=has_constant) for rows in (held, sums))
    torch.testing.assert_close(again.weight, expected.weight)
    assert float(held.nothing().weight.abs().sum()) == 0


def test_products_made_block_by_block_are_those_made_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 60, 11, generator=generator, dtype=torch.float64) + 2
    r = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64) + x[..., :3]

    def found():
        grams = [Gram(2, 11, 3, x.device) for _ in "ab"]
        for gram, part in zip(grams, (slice(0, 40), slice(40, 60)), strict=True):
            gram.add(x[:, part], r[:, part])
        both = grams[0].join(grams[1])
        change = both.solve(1e-3, has_constant=True)
        left = both.left_by(change)
        both.apply(change)
        return change.weight, left, both.rr, both.solve(1e-2, has_constant=True).weight

    whole = found()
    monkeypatch.setattr(products, "_BLOCK", 4)
    torch.testing.assert_close(found(), whole)
