"""Dataclasses become options: names, defaults, help and types come from their fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
import typer.testing

from secateur.cli.flatten import Like, Unset, Without, described, flatten
from secateur.cli.terminal import Answer


@dataclass(frozen=True)
class Cut:
    """How much goes.

    Attributes:
        ratio: Share of channels
            to remove; None asks for no share. Not with `round_to`.
        round_to: Rounded to this.
        names: Patterns; may be repeated.
        kind: One of two.
        quick: Take less time.
        macs: A share or a count.
        seed: What decides.
    """

    ratio: float | None = None
    round_to: int = 1
    names: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"
    quick: bool = True
    macs: float | str | None = None
    seed: int = 7


@dataclass(frozen=True)
class Place:
    """Where.

    Attributes:
        seed: Of everything that is drawn.
        folder: Where to.
    """

    folder: Path
    seed: Annotated[int, typer.Option(min=0)] = 0


def invoke(command, *words):
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command("try")(flatten(command))
    app.command("other")(lambda: None)
    done = typer.testing.CliRunner().invoke(app, ["try", *map(str, words)], prog_name="secateur")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def seen():
    return {}


@pytest.fixture
def command(seen):
    def act(cut: Annotated[Cut, Without("macs", round_to=8)], place: Place) -> Answer:
        seen.update(cut=cut, place=place)
        return Answer({"ratio": cut.ratio}, f"ratio {cut.ratio}")

    return act


def test_what_is_not_given_has_the_default_of_the_class_or_of_the_command(command, seen):
    assert invoke(command, "--folder", "x").stdout == "ratio None\n"
    assert seen["cut"] == Cut(round_to=8, seed=0)
    assert seen["place"] == Place(Path("x"))


def test_words_are_converted_by_the_types_of_the_fields(command, seen):
    words = ("--ratio", "0.5", "--round-to", 4, "--names", "a", "--names", "b", "--kind", "b", "--no-quick")
    assert invoke(command, "--folder", "x", *words).exit_code == 0
    assert seen["cut"] == Cut(0.5, 4, ("a", "b"), "b", quick=False, seed=0)


def test_a_field_of_two_classes_is_one_option_and_the_declared_one_rules(command, seen):
    assert invoke(command, "--folder", "x", "--seed", 3).exit_code == 0
    assert (seen["cut"].seed, seen["place"].seed) == (3, 3)
    assert invoke(command, "--folder", "x", "--seed", -3).exit_code == 2


def test_what_a_command_leaves_out_is_no_option(command):
    outcome = invoke(command, "--folder", "x", "--macs", "0.5")
    assert outcome.exit_code == 2
    assert "--macs" in outcome.stderr


def test_help_comes_from_the_docstring(command):
    text = " ".join(invoke(command, "--help").stdout.split())
    assert "Share of channels to remove. Not with --round-to." in text
    assert "Rounded to this. [default: 8]" in text
    assert "What decides" not in text
    assert "--quick / --no-quick Take less time. [default: quick]" in text
    assert text.count("--seed") == 1


def test_the_answer_is_text_or_json_and_its_failure_is_exit_1(command):
    assert invoke(command, "--folder", "x", "--ratio", 0.5, "--json").stdout == '{\n "ratio": 0.5\n}\n'

    def fail() -> Answer:
        return Answer({"verdict": "failed"}, "it failed", failed=True)

    outcome = invoke(fail)
    assert (outcome.exit_code, outcome.stdout) == (1, "it failed\n")


def test_fields_of_one_name_and_two_kinds_are_no_option():
    @dataclass(frozen=True)
    class Other:
        seed: str = ""

    def act(cut: Cut, other: Other) -> Answer:
        return Answer({}, "")

    with pytest.raises(TypeError, match="--seed of act would be <class 'int'> and <class 'str'>"):
        flatten(act)


def test_arguments_may_be_repeated(seen):
    def act(runs: Annotated[tuple[str, ...], typer.Argument(metavar="RUN")]) -> Answer:
        return Answer({}, ",".join(runs))

    assert invoke(act, "a", "b").stdout == "a,b\n"
    assert invoke(act).exit_code == 2


def test_a_mapping_has_the_values_of_options_like_the_fields(seen):
    def act(cut: Annotated[dict[str, Any], Like(Cut, "macs", "names", ratio=Unset("half"))]) -> Answer:
        return Answer({}, str(cut))

    expected = "{'ratio': None, 'round_to': 3, 'kind': 'a', 'quick': True, 'seed': 7}\n"
    assert invoke(act, "--round-to", 3).stdout == expected
    assert "[default: (half)]" in invoke(act, "--help").stdout


def test_a_class_adds_to_what_its_parent_says():
    @dataclass(frozen=True)
    class More(Cut):
        """More.

        Attributes:
            kind: Now otherwise.
            more: Even more.
        """

        more: int = 0

    assert described(More)["kind"] == "Now otherwise."
    assert described(More)["more"] == "Even more."
    assert described(More)["seed"] == "What decides."
