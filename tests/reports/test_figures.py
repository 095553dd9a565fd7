"""Numbers read the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.reports import figures


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9999, "9,999"),
        (10_000, "10.00 k"),
        (999_994, "999.99 k"),
        (999_996, "1.00 M"),
        (2e15, "2.00 P"),
    ],
)
def test_counts(number, shown):
    assert figures.count(number) == shown


@pytest.mark.parametrize(("number", "shown"), [(999, "999 B"), (1000, "1.0 kB"), (80_312_000, "80.3 MB")])
def test_sizes(number, shown):
    assert figures.size(number) == shown


@given(st.integers(1, 10**17))
def test_a_count_shows_the_number_within_its_digits(number):
    value, _, prefix = figures.count(number).partition(" ")
    shown = float(value.replace(",", "")) * 1000 ** figures.PREFIXES.index(prefix)
    assert shown == pytest.approx(number, rel=5e-3 if number > 10_000 else 0)


@given(st.lists(st.integers(0, 10**14), max_size=8))
def test_a_column_has_one_scale_and_keeps_the_order(values):
    prefix, cells = figures.scaled(values)
    shown = [float(cell.replace(",", "")) for cell in cells]
    assert prefix in figures.PREFIXES
    assert sorted(shown) == [cell for _, cell in sorted(zip(values, shown, strict=True))]
    assert all(
        cell == pytest.approx(value / 1000 ** figures.PREFIXES.index(prefix), abs=0.51)
        for value, cell in zip(values, shown, strict=True)
    )


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6))
def test_change_names_the_right_direction(before, after):
    said = figures.change(before, after, "smaller", "larger")
    if said != "unchanged":
        assert said.endswith("smaller" if before > after else "larger")
    else:
        assert before == pytest.approx(after, rel=0.006)


def test_change_from_or_to_nothing_is_unknown():
    assert figures.change(5, 0, "smaller", "larger") == figures.UNKNOWN
    assert figures.change(0, 5, "smaller", "larger") == figures.UNKNOWN
