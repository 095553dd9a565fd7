"""What `--help` says, and that its examples are commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from secateur.cli.app import commands, each_command, make_app

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
NAMES = sorted(each_command())


def example_of(name):
    words = " ".join((each_command()[name].__doc__ or "").split())
    return shlex.split(words.partition("Example: ")[2])


def click_command(name):
    command = typer.main.get_command(make_app())
    for word in name.split():
        command = command.commands[word]
    return command


def test_help_lists_every_command(run):
    outcome = run("--help")
    assert outcome.code == 0
    assert all(re.search(rf"^  {name} ", outcome.out, re.MULTILINE) for name in commands)
    assert {"demo", "inspect", "train", "prune", "finetune", "evaluate", "check", "bench", "report"} <= set(
        NAMES
    )


def test_help_of_a_group_lists_every_verb(run):
    outcome = run("darknet", "--help")
    assert outcome.code == 0
    verbs = {"make-digits", "convert", "train", "evaluate", "prune", "sweep", "finetune", "detect", "demo"}
    assert verbs | {"quantise"} <= {name.partition(" ")[2] for name in NAMES}
    for name in NAMES:
        if name.startswith("darknet "):
            assert re.search(rf"^  {name.partition(' ')[2]} ", outcome.out, re.MULTILINE)


@pytest.mark.parametrize("name", ["", "darknet", *NAMES])
def test_help_is_what_the_page_shows(run, name, monkeypatch):
    """`docs/commands.md` is the golden text; `scripts/generate` writes it."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    outcome = run(*name.split(), "--help")
    shown = "\n".join(line.rstrip() for line in outcome.out.strip().splitlines())
    section = f"## secateur {name}".rstrip() + "\n\n```text\n"
    golden = PAGE.read_text().partition(section)[2].partition("\n```")[0]
    # Releases of typer break lines and name types in their own ways; the words are ours.
    assert _words(shown) == _words(golden)


def _words(text):
    return re.sub(r"<[^>]*>|\s+", " ", text).split()


@pytest.mark.parametrize("name", NAMES)
def test_help_ends_with_an_example_that_parses(run, name):
    outcome = run(*name.split(), "--help")
    assert outcome.code == 0
    assert "Example: secateur" in outcome.out
    words = example_of(name)
    assert words[: 1 + len(name.split())] == ["secateur", *name.split()]
    context = click_command(name).make_context(name, words[1 + len(name.split()) :])
    assert context.params


@pytest.mark.parametrize("name", NAMES)
def test_every_command_speaks_json_and_has_a_short_help(run, name):
    outcome = run(*name.split(), "-h")
    assert outcome.code == 0
    assert "--json" in outcome.out


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_is(name):
    silent = [param.name for param in click_command(name).params if not getattr(param, "help", None)]
    assert silent == []


def test_no_words_show_the_help_and_fail(run):
    outcome = run()
    assert outcome.code == 2
    assert "Commands:" in outcome.out + outcome.err


def test_a_misspelt_command_or_option_gets_a_suggestion(run):
    assert "Did you mean 'prune'?" in run("prun").err
    outcome = run("bench", "zoo:vgg11", "--bacth", 3)
    assert outcome.code == 2
    assert "--batch" in outcome.err


def test_a_shell_completes_commands_and_waits_for_no_torch():
    code = (
        "import contextlib, sys; from secateur.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print('torch' in sys.modules)"
    )
    asked = {"_SECATEUR_COMPLETE": "complete_bash", "COMP_WORDS": "secateur darknet ma", "COMP_CWORD": "2"}
    environment = {**os.environ, **asked, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.split() == [b"make-digits", b"False"]
