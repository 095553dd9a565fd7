import pytest

from secateur.errors import RequestError
from secateur.select import Budget


def test_exactly_one_budget_is_read():
    assert Budget.of(ratio=0.5, macs=None).kind == "ratio"
    assert Budget.of(channels={"a": 0.5}).channels == {"a": 0.5}
    for wrong in ({}, {"ratio": 0.5, "params": 0.5}, {"macs": None}):
        with pytest.raises(RequestError, match="budgets were given"):
            Budget.of(**wrong)


def test_a_ratio_is_what_goes_and_a_budget_what_stays():
    assert Budget.of(ratio=0.75).target(400) == 100
    assert Budget.of(macs=0.75).target(400) == 300
    assert Budget.of(params=300).target(400) == 300
    assert Budget.of(params=1.0).target(400) == 400
    with pytest.raises(RequestError, match="macs budget is 401, the uncut model has 400"):
        Budget.of(macs=401).target(400)


@pytest.mark.parametrize("share", [-0.1, 1, 2, float("nan")])
def test_shares_lie_between_zero_and_one(share):
    for wrong in ({"ratio": share}, {"channels": {"layer": share}}):
        with pytest.raises(RequestError, match="allowed: 0 <= ratio < 1"):
            Budget.of(**wrong)


def test_a_budget_prints_as_it_was_asked():
    assert str(Budget.of(ratio=0.7)) == "ratio=0.7"
    assert str(Budget.of(channels={"a": 0.5})) == "channels={'a': 0.5}"
