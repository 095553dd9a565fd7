"""What do the parsers do with broken files?

Every parser is given valid files in which something was broken: by mutators that know the format, and by
blind ones (`fuzz_runs.mutators`). It must read them or raise an error of ours that says what to do. Anything
else is counted: tracebacks, crashes of the process, inputs that take longer than ten seconds or a gigabyte.

    python benchmarks/fuzz.py --seconds 300 --resume        # CPU seconds for each parser, then write the page
    python benchmarks/fuzz.py --parsers coco idx --seconds 20 --json /tmp/fuzz.json
    python benchmarks/fuzz.py --parsers coco --input 1234   # show one input and what comes of it
    python benchmarks/fuzz.py --page                        # write the page from the results
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from fuzz_runs.child import broken_files, in_child, try_input
from fuzz_runs.page import write_page
from fuzz_runs.parsers import PARSERS, Parser

from secateur.write.atomic import atomic_write

RESULTS = Path("benchmarks/results/fuzz.json")
PAGE = Path("docs/fuzz.md")
CHUNK_SECONDS = 10.0
_MOST_FAILURES = 20


def run_parser(parser: Parser, found: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run one chunk more of a parser; what was found before goes on growing."""
    left = seconds - found.get("seconds", 0.0)
    made = in_child(parser, found.get("next", 0), min(left, CHUNK_SECONDS))
    counts = Counter(found.get("counts", {}))
    counts.update(made["counts"])
    failures = dict(found.get("failures", {}))
    for what, numbers in made["failures"].items():
        failures[what] = [*failures.get(what, []), *numbers][:_MOST_FAILURES]
    spent = round(found.get("seconds", 0.0) + made["seconds"], 2)
    return {"seconds": spent, "next": made["next"], "counts": dict(counts), "failures": failures}


def show(parser: Parser, number: int) -> None:
    """Print one input and what comes of it."""
    files = broken_files(parser, list(parser.samples()), number)
    for name, content in files.items():
        print(f"--- {name}, {len(content):,} bytes\n{content[:2000]!r}")
    with tempfile.TemporaryDirectory() as folder:
        parser.read(Path(folder)) if not files else print(try_input(parser, files, Path(folder)))


def save(path: Path, data: dict[str, Any]) -> None:
    """Write the results, a line for each parser."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(data[name])}" for name in PARSERS if name in data)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, f"{{\n{lines}\n}}\n".encode())


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parsers", nargs="+", choices=list(PARSERS), default=list(PARSERS))
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU seconds for each parser")
    parser.add_argument("--resume", action="store_true", help="go on where the results end")
    parser.add_argument("--input", type=int, help="show this input of the first parser")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--markdown", type=Path, default=PAGE)
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.input is not None:
        show(PARSERS[options.parsers[0]], options.input)
        return 0
    data = json.loads(options.json.read_text()) if options.json.exists() else {}
    for name in () if options.page else options.parsers:
        found = data.get(name, {}) if options.resume else {}
        while found.get("seconds", 0.0) < options.seconds:
            found = run_parser(PARSERS[name], found, options.seconds)
            data[name] = found
            save(options.json, data)
        print(f"{name}: {found['counts']}", file=sys.stderr, flush=True)
    if options.page or options.json == RESULTS:
        atomic_write(options.markdown, write_page(data).encode())
    bad = {name: found["failures"] for name, found in data.items() if found["failures"]}
    print(json.dumps(bad, indent=1) if bad else "done: no failure")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
