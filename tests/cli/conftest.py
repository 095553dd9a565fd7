import contextlib
import io
import json
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from secateur.cli import main

TINY = ("--arg", "width=0.0625", "--arg", "gamma=0.5")


@dataclass(frozen=True)
class Outcome:
    """What a user gets from one command."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The whole of stdout, which must be one JSON object."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def command(*words) -> Outcome:
    """Run `secateur` in this process; an exception that escapes fails the test, as a stack trace would."""
    out, err = io.StringIO(), io.StringIO()
    code = None
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([str(word) for word in words])
            except SystemExit as end:
                code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run():
    return command


@pytest.fixture
def refuse():
    """Run a command that must fail with one clear message, and nothing on stdout; returns the message."""

    def refused(code, *words):
        outcome = command(*words)
        assert outcome.code == code, outcome.err
        assert outcome.out == ""
        *before, message = outcome.err.split("error: ")
        assert all(line.startswith("warning: ") for part in before for line in part.splitlines()), outcome.err
        assert "Traceback" not in message
        lines = message.rstrip("\n").split("\n")
        assert all(line.startswith("  ") and line.strip() for line in lines[1:]), message
        return message

    return refused


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    """A run of every step, as the README shows it; read only. The outcomes lie beside the folders."""
    folder = tmp_path_factory.mktemp("studio")
    paths = SimpleNamespace(
        folder=folder,
        dense=folder / "dense",
        sparse=folder / "sparse",
        pruned=folder / "pruned",
        tuned=folder / "tuned",
        again=folder / "again",
        outcomes={},
    )
    quick = ("--epochs", 1, "--batch-size", 256)
    steps = {
        "dense": ("train", "zoo:vgg11", *TINY, *quick, "--save", paths.dense),
        "sparse": (
            *("train", "zoo:vgg11", *TINY, *quick, "--sparsity", "bn-l1", "--s", 0.1, "--save", paths.sparse),
            "--json",
        ),
        "pruned": (
            *("prune", paths.sparse, "--ratio", 0.5, "--criterion", "bn-scale", "--recover", "absorb"),
            *("--save", paths.pruned),
        ),
        "tuned": ("finetune", paths.pruned, *quick, "--save", paths.tuned, "--json"),
        "again": ("prune", paths.tuned, "--macs", 0.6, "--save", paths.again, "--json"),
    }
    for name, words in steps.items():
        outcome = command(*words)
        assert outcome.code in (0, None), outcome.err
        paths.outcomes[name] = outcome
    return paths


@pytest.fixture
def tiny():
    return TINY
