"""Options that are written down: help, completion and mistyped words without PyTorch, never out of date."""

import copy
import inspect
import subprocess
import sys
from typing import Annotated

import pytest
import typer

from secateur.cli import listed
from secateur.cli.app import each_command
from secateur.cli.listed import as_row, from_row, rows_of, write_listed

NAMES = sorted(each_command())


def test_what_is_written_down_is_what_the_commands_take():
    assert write_listed(each_command()) == listed.FILE.read_text()  # else run scripts/generate


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_back_is_what_was_written(name):
    function = each_command()[name]
    text, rows = listed.listed()[name]
    stand_in = listed.stand_in(name, lambda: function, lambda: None)
    assert (stand_in.__doc__, stand_in.__name__) == (text, function.__name__)
    assert [as_row(from_row(row)) for row in rows] == rows == rows_of(function)
    own, real = (inspect.signature(one).parameters.values() for one in (stand_in, function))
    assert [one.name for one in own] == [one.name for one in real]
    assert [one.annotation.__class__ for one in own] == [one.annotation.__class__ for one in real]


ASKED = """
import contextlib, io, os, sys
from secateur.cli.app import main
def ask(*words):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):
        main([*words])
    return told.getvalue()
"""


def _imported(code):
    """What a fresh process says, and whether it has imported PyTorch or NumPy by then."""
    ends = "print(sorted({'torch', 'numpy'} & {*sys.modules}), len(sys.modules))"
    words = [sys.executable, "-c", f"{ASKED}{code}\n{ends}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    held, _, count = last.rpartition(" ")
    return "\n".join(lines), held, int(count)


def test_the_help_of_every_command_imports_no_torch():
    code = f"for name in {NAMES}:\n    assert 'Usage: secateur ' + name in ask(*name.split(), '--help'), name"
    _, held, count = _imported(code)
    assert held == "[]"
    assert count < 600


def test_what_was_mistyped_is_told_without_torch():
    text, held, _ = _imported(
        "print(ask('prune', 'zoo:vgg11', '--rato', '0.5'), ask('bench'), "
        "ask('prune', 'zoo:vgg11', '--round-to', 'x'), ask('prume'))"
    )
    assert "No such option: --rato (Possible options: --data, --max-ratio, --ratio)" in text
    assert "Missing argument 'MODEL...'" in text
    assert "Invalid value for '--round-to'" in text
    assert "Did you mean 'prune'?" in text
    assert held == "[]"


def test_a_shell_is_answered_without_torch():
    code = (
        "os.environ.update(_SECATEUR_COMPLETE='complete_bash', COMP_CWORD='2')\n"
        "os.environ['COMP_WORDS'] = 'secateur prune --rou'\nprint(ask())"
    )
    text, held, _ = _imported(code)
    assert "--round-to" in text.split()
    assert held == "[]"


def test_a_command_that_runs_does_import_torch():
    _, held, _ = _imported("ask('inspect', 'zoo:vgg11', '--arg', 'width=0.0625')")
    assert held == "['numpy', 'torch']"


@pytest.fixture
def written(monkeypatch):
    """What is written down, to be changed by a test."""
    held = copy.deepcopy(dict(listed.listed()))
    monkeypatch.setattr(listed, "listed", lambda: held)
    return held


def test_an_option_that_is_not_written_down_yet_has_its_default_all_the_same(run, written):
    words = "inspect", "zoo:vgg11", "--arg", "width=0.0625", "--json"
    before = run(*words)
    text, rows = written["inspect"]
    kept = [row for row in rows if row[0] != "seed"]
    assert len(kept) < len(rows)
    written["inspect"] = [text, kept]
    after = run(*words)
    assert (after.code, after.json) == (before.code, before.json)


def test_a_default_that_has_changed_since_is_the_new_one(run, written):
    _, rows = written["inspect"]
    seed = next(row for row in rows if row[0] == "seed")
    seed[2] = [7]
    outcome = run("inspect", "zoo:vgg11", "--arg", "width=0.0625", "--verbose")
    assert outcome.code in (0, None)
    assert "  seed: 0\n" in outcome.err


def test_a_command_that_is_not_written_down_is_imported(run, written):
    del written["inspect"]
    assert "Usage: secateur inspect" in run("inspect", "--help").out


def test_without_the_file_all_are_imported(monkeypatch, tmp_path, run):
    monkeypatch.setattr(listed, "FILE", tmp_path / "none.json")
    listed.listed.cache_clear()
    try:
        assert "Usage: secateur inspect" in run("inspect", "--help").out
    finally:
        listed.listed.cache_clear()


def test_what_a_row_cannot_hold_is_refused():
    hint = Annotated[int, typer.Option("--count", callback=print)]
    odd = inspect.Parameter("count", inspect.Parameter.KEYWORD_ONLY, annotation=hint)
    with pytest.raises(TypeError, match="no row can hold"):
        as_row(odd)
