"""One parser on broken files in a process of its own, which may be killed, and in which memory is limited.

An input follows from the parser's name and its number alone, so that what failed can be had again.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_runs.mutators import mutated
from fuzz_runs.parsers import Files, Parser
from secateur.errors import SecateurError

HANG_SECONDS = 10
LARGE_BYTES = 2**30
_LIMIT_BYTES = 6 * 2**30


class Hang(BaseException):
    """An input took longer than `HANG_SECONDS` of the processor, or ten times that in all."""


def broken_files(parser: Parser, samples: list[Files], number: int) -> dict[str, bytes]:
    """Make the input of a number: a sample in which one file, now and then two, is broken."""
    rng = random.Random(f"{parser.name} {number}")
    files = dict(rng.choice(samples))
    for name in rng.sample(sorted(files), min(len(files), rng.choice((1, 1, 1, 2)))):
        aware = parser.aware.get(Path(name).suffix) or parser.aware.get("", ())
        if not aware:
            continue
        files[name] = mutated(files[name], aware, rng)
    return files


def try_input(parser: Parser, files: Files, folder: Path) -> tuple[str, str]:
    """Read one input; tells the kind of what came of it, and of a failure where."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # of the processor, which others may use, too
    signal.alarm(10 * HANG_SECONDS)
    try:
        parser.read(folder)
        return "read", ""
    except SecateurError as error:
        str(error).encode("utf-8", "replace")
        return "named", type(error).__name__
    except Hang:
        return "hangs", _place(sys.exc_info()[2])
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return "tracebacks", f"{type(error).__name__}: {str(error)[:100]} at {_place(error.__traceback__)}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _place(trace: Any) -> str:
    """Where in the package a failure was."""
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "secateur" in frame.filename and "fuzz_runs" not in frame.filename]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def run_chunk(parser: Parser, samples: list[Files], first: int, seconds: float, out: Path) -> None:
    """Run inputs for so many CPU seconds; the file holds counts, and the number that is being tried."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_used() + _LIMIT_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _raise_hang)
    counts, failures = Counter[str](), dict[str, list[Any]]()
    number, started = first, time.process_time()
    with tempfile.TemporaryDirectory() as name:
        trying = out.with_suffix(".trying")
        while time.process_time() - started < seconds:
            trying.with_suffix(".new").write_text(str(number))
            trying.with_suffix(".new").replace(trying)
            folder, peak = Path(name, "input"), _peak()
            folder.mkdir()
            kind, what = try_input(parser, broken_files(parser, samples, number), folder)
            shutil.rmtree(folder, ignore_errors=True)
            counts[kind] += 1
            if _peak() - max(peak, LARGE_BYTES // 2) > LARGE_BYTES:
                kind, what = "large", f"{_peak() - peak:,} bytes"
                counts[kind] += 1
            if kind in ("tracebacks", "hangs", "large"):
                failures.setdefault(f"{kind}: {what}", []).append(number)
            number += 1
        spent = time.process_time() - started
    told = {"next": number, "seconds": spent, "counts": counts, "failures": failures}
    out.write_text(json.dumps(told))


@cache
def ready_samples(parser: Parser) -> list[Files]:
    """The samples of a parser, each read once: all modules are loaded before the process splits."""
    samples = list(parser.samples())
    for files in samples:
        with tempfile.TemporaryDirectory() as name:
            for path, content in files.items():
                Path(name, path).parent.mkdir(parents=True, exist_ok=True)
                Path(name, path).write_bytes(content)
            parser.read(Path(name))
    return samples


def in_child(parser: Parser, first: int, seconds: float) -> dict[str, Any]:
    """Run a chunk in a forked process; one that dies is a crash at the input that it was trying."""
    samples = ready_samples(parser)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name, "chunk.json")
        process = os.fork()
        if process == 0:
            try:
                run_chunk(parser, samples, first, seconds, out)
            except BaseException:  # noqa: BLE001 - a child ends here, whatever happens
                out.with_suffix(".error").write_text(traceback.format_exc())
            os._exit(0)
        trying = out.with_suffix(".trying")
        was_stuck = _wait(process, trying)
        if out.is_file():
            made: dict[str, Any] = json.loads(out.read_text())
            return made
        if out.with_suffix(".error").is_file():  # ours, not the parser's
            raise RuntimeError(out.with_suffix(".error").read_text())
        number = int(trying.read_text()) if trying.is_file() else first
        kind = "hangs" if was_stuck else "crashes"
        failures = {f"{kind}: the process was lost": [number]}
        return {"next": number + 1, "seconds": 0.0, "counts": {kind: 1}, "failures": failures}


def _wait(process: int, trying: Path) -> bool:
    """Wait for a child; one that tries the same input for too long is stuck in C and is killed."""
    tried, since = "", time.monotonic()
    while not os.waitpid(process, os.WNOHANG)[0]:
        now = trying.read_text() if trying.is_file() else ""
        if now != tried:
            tried, since = now, time.monotonic()
        if time.monotonic() - since > 20 * HANG_SECONDS:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return True
        time.sleep(0.05)
    return False


def _raise_hang(*_: object) -> None:
    raise Hang


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
