"""Rows of a sweep on the disk: one writer at a time, and what is no row is named."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from secateur.errors import CheckpointError, RequestError
from secateur.write.rows import Rows


@dataclass(frozen=True)
class Row:
    count: int
    accuracy: float
    removed: tuple[int, ...] = ()


OPENING = {"sweep": "channels", "layer": "conv1"}


def rows_in(path, opening=OPENING):
    return Rows(path, opening, "count", Row)


def test_rows_are_read_back_and_go_on(tmp_path):
    path = tmp_path / "new" / "sweep.jsonl"
    with rows_in(path) as rows:
        rows.add({"count": 1, "accuracy": 0.5, "removed": [3]})
    with rows_in(path) as rows:
        assert rows.known == {1: {"count": 1, "accuracy": 0.5, "removed": [3]}}
        rows.add({"count": 2, "accuracy": float("nan"), "removed": [3, 4]})
    assert [json.loads(line).get("count") for line in path.read_text().splitlines()] == [None, 1, 2]


def test_a_last_line_that_is_not_complete_is_taken_off(tmp_path):
    path = tmp_path / "sweep.jsonl"
    with rows_in(path) as rows:
        rows.add({"count": 1, "accuracy": 0.5})
    whole = path.read_text()
    path.write_text(whole + '{"count": 2, "accu')
    with rows_in(path) as rows:
        assert list(rows.known) == [1]
        assert path.read_text() == whole


def test_two_at_a_time_are_refused_and_the_first_goes_on(tmp_path):
    path = tmp_path / "sweep.jsonl"
    with rows_in(path) as first:
        with pytest.raises(RequestError, match=r"sweep.jsonl is being written by another sweep(.|\n)*wait"):
            rows_in(path)
        first.add({"count": 1, "accuracy": 0.5})
    with rows_in(path) as rows:
        assert list(rows.known) == [1]


def test_a_killed_process_holds_no_lock(tmp_path):
    path = tmp_path / "sweep.jsonl"
    program = (
        "import sys; from pathlib import Path; from secateur.write.rows import Rows\n"
        f"rows = Rows(Path(sys.argv[1]), {OPENING}, 'count', dict)\n"
        "rows.add({'count': 1, 'accuracy': 0.5}); print('has it', flush=True); input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "has it\n"
    with pytest.raises(RequestError, match="another sweep"):
        rows_in(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with rows_in(path) as rows:
        assert list(rows.known) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "3",
        '{"accuracy": 0.5}',
        '{"count": "1", "accuracy": 0.5}',
        '{"count": 1, "accuracy": "high"}',
        '{"count": [1], "accuracy": 0.5}',
        '{"count": 1, "accuracy": 0.5, "removed": 3}',
        '{"count": 1, "accuracy": 0.5, "more": 3}',
        "[" * 3000 + "]" * 3000,
        '{"count": ' + "9" * 5000 + ', "accuracy": 0.5}',
        '\ufeff{"count": 1, "accuracy": 0.5}',
    ],
)
def test_what_is_no_row_is_named_and_the_file_left_as_it_is(tmp_path, line):
    path = tmp_path / "sweep.jsonl"
    path.write_text(f"{json.dumps(OPENING)}\n{line}\n")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"sweep\.jsonl holds no rows of a sweep"):
        rows_in(path)
    assert path.read_bytes() == before


def test_bytes_that_are_no_text_and_other_sweeps_are_refused(tmp_path):
    path = tmp_path / "sweep.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(CheckpointError, match="holds no rows"):
        rows_in(path)
    path.write_text(f"{json.dumps(OPENING)}\n")
    with pytest.raises(CheckpointError, match=r"another sweep(.|\n)*layer: conv1 there, conv2 here"):
        rows_in(path, {**OPENING, "layer": "conv2"})
