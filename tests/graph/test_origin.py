"""Terms over fields and sizes: what an integer was computed from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.graph.origin import Field, Made, Size, evaluate, fields_in, solve_for

HEADS = Field("attention", ("num_heads",))
NUMBERS = st.integers(1, 64)


def terms(depth=3):
    """Terms that hold HEADS once, with operators that can be undone."""
    if depth == 0:
        return st.just(HEADS)
    inner = terms(depth - 1)
    return st.one_of(
        inner,
        st.builds(Made, st.sampled_from("+-*"), inner, NUMBERS),
        st.builds(Made, st.sampled_from(["+", "*"]), NUMBERS, inner),
    )


@given(term=terms(), heads=NUMBERS)
def test_solving_undoes_evaluating(term, heads):
    assert list(fields_in(term)) == [HEADS]
    wanted = evaluate(term, {HEADS: heads}.__getitem__)
    assert solve_for(HEADS, term, wanted, {}.__getitem__) == heads


@pytest.mark.parametrize(
    ("term", "wanted", "solution"),
    [
        (Made("//", Size(0, 2), HEADS), 32, 2),
        (Made("//", Size(0, 2), HEADS), 33, None),
        (Made("*", HEADS, 3), 7, None),
        (Made("%", HEADS, 3), 1, None),
        (Made("//", HEADS, 2), 4, 8),
        (Made("-", 10, HEADS), 4, 6),
    ],
)
def test_what_has_no_integer_solution_has_none(term, wanted, solution):
    assert solve_for(HEADS, term, wanted, {Size(0, 2): 64}.__getitem__) == solution


def test_a_field_prints_as_it_is_written():
    assert str(Field("layer.0", ("config", "num_heads"))) == "layer.0.config.num_heads"
    assert str(Field("", ("shape", 1))) == "shape.1"
