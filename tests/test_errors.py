import inspect

import pytest

from secateur import errors

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception) and not issubclass(kind, Warning)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_ours_and_has_an_exit_code(kind):
    assert issubclass(kind, errors.SecateurError)
    assert kind.exit_code == (2 if issubclass(kind, errors.RequestError) else 1)


def test_a_message_says_what_then_details_then_what_to_do():
    error = errors.SecateurError("a is 1, b is 2", ["first", "second"], "make them equal")
    assert str(error) == "a is 1, b is 2\n  first\n  second\n  make them equal"
    assert error.what == "a is 1, b is 2"


def test_details_and_advice_may_be_missing():
    assert str(errors.SecateurError("no")) == "no"


def test_only_the_first_details_are_shown():
    lines = str(errors.SecateurError("no", (f"line {at}" for at in range(25)), "do")).split("\n")
    assert lines[20:] == ["  line 19", "  ... and 5 more", "  do"]


def test_no_effect_is_a_warning():
    assert issubclass(errors.NoEffectWarning, UserWarning)
