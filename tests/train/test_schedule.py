import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import RequestError
from secateur.train import FitConfig, learning_rate, learning_rates


@given(st.integers(1, 9), st.integers(1, 60), st.sampled_from(["step", "cosine"]))
def test_rates_start_at_lr_never_rise_and_stay_positive(epochs, steps, schedule):
    rates = learning_rates(FitConfig(epochs=epochs, lr=0.2, schedule=schedule), steps)
    assert len(rates) == epochs * steps
    assert rates[0] == 0.2
    assert all(earlier >= later > 0 for earlier, later in itertools.pairwise(rates))


def test_steps_are_cut_at_half_and_three_quarters_even_of_odd_numbers_of_epochs():
    rates = learning_rates(FitConfig(epochs=3), 100)
    assert [rates.count(rate) for rate in (0.1, 0.01, 0.001)] == [150, 75, 75]


def test_cosine_is_half_way_down_in_the_middle():
    assert learning_rate(FitConfig(epochs=1, schedule="cosine"), 50, 100) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"schedule": "linear"}, "allowed: step, cosine"),
        ({"precision": "8-bit"}, "precision is '8-bit'"),
        ({"keep": "worst"}, "keep is 'worst'"),
        ({"threads": 0}, "threads is 0"),
        ({"resume": True}, "resume was asked for, but no folder"),
        ({"momentum": 0, "nesterov": True}, "nesterov"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(RequestError, match=message):
        FitConfig(**{"epochs": 1, **settings})
