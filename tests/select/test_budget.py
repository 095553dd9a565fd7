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


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({"size_bytes": "50%"}, 4_000_000),
        ({"size_bytes": "2MB"}, 2_000_000),
        ({"memory": "2MiB"}, 2**21),
        ({"memory": "0.5"}, 4_000_000),
        ({"macs": "1.5M"}, 1_500_000),
        ({"params": "700k"}, 700_000),
        ({"params": "1e3"}, 1000),
        ({"latency_ms": 0.5}, 0.5),
        ({"latency_ms": "2.5 ms"}, 2.5),
        ({"latency_ms": "25%"}, 2_000_000),
    ],
)
def test_a_value_may_be_a_share_an_amount_or_a_text(given, target):
    assert Budget.of(**given).target(8_000_000) == target


@pytest.mark.parametrize("kind", ["macs", "params", "size_bytes", "memory", "latency_ms"])
@pytest.mark.parametrize(
    "value", [0, -1, -0.5, float("nan"), float("inf"), "", "half", "-2", "5 apples", "1.2.3", True, [1], "0%"]
)
def test_values_that_make_no_sense_are_refused(kind, value):
    with pytest.raises(RequestError, match=rf"^{kind} is "):
        Budget.of(**{kind: value})


@pytest.mark.parametrize(
    "wrong", [{"macs": "2MB"}, {"params": "2Mi"}, {"latency_ms": "2MB"}, {"memory": "2ms"}, {"ratio": "50MB"}]
)
def test_units_that_do_not_fit_are_refused(wrong):
    with pytest.raises(RequestError):
        Budget.of(**wrong)


@pytest.mark.parametrize("kind", ["size_bytes", "memory", "latency_ms"])
def test_more_than_there_is_is_refused(kind):
    with pytest.raises(RequestError, match=f"{kind} budget is 401, the uncut model has 400"):
        Budget.of(**{kind: 401}).target(400)


def test_budgets_exclude_each_other():
    with pytest.raises(RequestError, match="2 budgets were given: memory, latency_ms"):
        Budget.of(memory=0.5, latency_ms=3)
