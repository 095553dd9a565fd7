import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.graph.axes import leaves, resolve
from secateur.graph.equation import (
    Compound,
    Dots,
    Letter,
    Number,
    build,
    letters,
    parse,
    size_of,
    solve_sizes,
)

CONV = "input(n (g i) h w), weight((g o) i p q), bias((g o)) -> (n (g o) y x)"


def test_an_equation_has_operands_outputs_and_letters():
    equation = parse(CONV)
    assert list(equation.operands) == ["input", "weight", "bias"]
    assert equation.operands["bias"] == (Compound("*", (Letter("g"), Letter("o"))),)
    assert equation.outputs[0][0] == Letter("n")
    assert equation.once == set("hwpqyx")


def test_sums_numbers_dots_and_several_outputs_parse():
    equation = parse("x(... (a + b) 3) -> (... a), (... b)")
    assert equation.operands["x"] == (Dots(), Compound("+", (Letter("a"), Letter("b"))), Number(3))
    assert len(equation.outputs) == 2


def test_white_space_does_not_matter():
    assert parse("x( a(b c) )->( a )").operands == parse("x(a (b c)) -> (a)").operands


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x(a) (a)", "expected"),
        ("x(a)", "expected"),
        ("x(a -> (a)", "expected a dim, found '->'"),
        ("x(a, b) -> (a)", "expected a dim, found ','"),
        ("x(a) -> (a) b", "goes on"),
        ("x(a*b) -> (a)", "unknown characters"),
        ("", "expected"),
    ],
)
def test_text_outside_of_the_grammar_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_sizes_follow_from_the_shapes(groups, inputs, outputs, kernel):
    sizes = {"g": groups}
    shapes = {
        "input": (2, groups * inputs, 9, 9),
        "weight": (groups * outputs, inputs, kernel, kernel),
        "->0": (2, groups * outputs, 7, 7),
    }
    equation = parse(CONV)
    solve_sizes(equation, shapes, sizes)
    assert (sizes["i"], sizes["o"], sizes["p"]) == (inputs, outputs, kernel)
    assert size_of(equation.operands["bias"][0], sizes) == groups * outputs


def test_a_term_of_a_sum_is_what_the_others_leave():
    sizes = {"a": 3}
    solve_sizes(parse("x((a + b)) -> (b)"), {"x": (8,)}, sizes)
    assert sizes == {"a": 3, "b": 5}


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        ({"x": (4, 3), "y": (5,)}, "does not fit"),
        ({"x": (4,), "y": (4,)}, "x has 1 dims, the equation 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, complaint):
    with pytest.raises(ValueError, match=complaint):
        solve_sizes(parse("x(a b), y(a) -> (b)"), shapes, {})


def test_sizes_that_cannot_be_known_are_refused():
    with pytest.raises(ValueError, match="cannot be solved"):
        solve_sizes(parse("x((a b)) -> (a)"), {"x": (12,)}, {})


def test_equal_letters_are_one_axis():
    letters_to = {}
    dims = parse("x((g o) o 2) -> (g)").operands["x"]
    exprs = [build(dim, letters_to, {"g": 3, "o": 4}) for dim in dims]
    assert repr(exprs[0]) == "(3 4)"
    assert resolve(exprs[1]) is letters_to["o"] is leaves(exprs[0])[1]
    assert leaves(exprs[2])[0].reason == "a factor of 2 that the operator fixes"
    assert list(letters(dims[0])) == ["g", "o"]
