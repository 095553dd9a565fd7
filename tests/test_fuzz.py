"""Every parser, for about a second, on files that were broken by the mutators of `benchmarks/fuzz.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_runs.child import broken_files, try_input
from fuzz_runs.parsers import PARSERS, Parser

ROOT = Path(__file__).parents[1]


def test_no_parser_fails_otherwise_than_by_an_error_of_ours(tmp_path):
    found = tmp_path / "fuzz.json"
    words = [sys.executable, ROOT / "benchmarks" / "fuzz.py", "--seconds", "0.7", "--json", found]
    path = os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(found.read_text())
    assert data.keys() == PARSERS.keys()
    for name, parser in data.items():
        counts = parser["counts"]
        assert counts.keys() <= {"read", "named"}, name
        assert sum(counts.values()) > 20, name


@pytest.mark.parametrize("name", PARSERS)
def test_the_samples_are_valid_and_the_broken_ones_differ(tmp_path, name):
    parser = PARSERS[name]
    samples = list(parser.samples())
    for number, files in enumerate(samples):
        assert try_input(parser, files, tmp_path / str(number)) == ("read", "")
    made = [broken_files(parser, samples, number) for number in range(50)]
    assert sum(files not in samples for files in made) > 30
    assert made == [broken_files(parser, samples, number) for number in range(50)]


def test_a_traceback_is_seen_and_placed(tmp_path):
    def read(folder):
        return json.loads((folder / "a").read_bytes())

    parser = Parser("careless", lambda: [{"a": b"{}"}], {}, read)
    kind, what = try_input(parser, {"a": b"{"}, tmp_path)
    assert kind == "tracebacks"
    assert what.startswith("JSONDecodeError")
