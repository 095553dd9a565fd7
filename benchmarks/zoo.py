"""Which networks of four packages can be pruned, and is the result right, beside Torch-Pruning?

Each model runs in a fresh process for each library (`zoo_runs.worker`), with one thread and limits of CPU
time and of memory. Imports, the making of the model and one warm-up on a tiny model are not counted;
all times are CPU seconds. The model gets random parameters first (`zoo_runs.judge`), so that an independent
judge can trace what was removed and compare. Results are written after each model: a stopped run goes on
with `--resume`.

    python benchmarks/zoo.py --resume            # run what is missing, then write the page
    python benchmarks/zoo.py --family timm --only "*vit*" --library secateur
    python benchmarks/zoo.py --one timm:pit.pit_ti_224 --library secateur
    python benchmarks/zoo.py --page              # write the page from the results
"""

import argparse
import fnmatch
import importlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zoo_models import FAMILIES
from zoo_runs import LIBRARIES
from zoo_runs.page import machine, write_page
from zoo_runs.worker import SETTINGS, preload, run_one, work

RESULTS = Path("benchmarks/results/zoo.json")
TIMES = Path("benchmarks/results/zoo-times.json")
PAGE = Path("docs/zoo.md")
MEMORY = 16.0
"""GiB of address space of each process; a row that was given another says so."""

LIMIT = 120
"""CPU seconds of each phase; a row that was given another limit says so."""


class Results:
    """The results so far, in a file that is written anew after each model."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.lock = threading.Lock()
        known = json.loads(path.read_text()) if path.exists() else {}
        self.data = {**settings, "models": known.get("models", {})}

    def has(self, name: str, library: str) -> bool:
        """Whether a model has a result of a library."""
        return library in self.data["models"].get(name, {})

    def add(self, name: str, library: str, found: dict[str, Any]) -> None:
        """Add a result and write the file."""
        from secateur.write.atomic import atomic_write  # a worker of another library needs none of ours

        with self.lock:
            self.data["models"].setdefault(name, {})[library] = found
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, (json.dumps(self.data, indent=1) + "\n").encode())


def names_of(families: list[str], pattern: str) -> list[str]:
    """The models of the families whose name, with or without its family, fits a pattern."""
    names = [
        f"{family}:{name}"
        for family in families
        for name in importlib.import_module(f"zoo_models.{FAMILIES[family]}").NAMES
    ]
    return [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.partition(":")[2], pattern)
    ]


def run_all(options: argparse.Namespace, results: Results) -> int:
    """Run what was chosen of one family; returns how many runs there were."""
    libraries = [options.library] if options.library else list(LIBRARIES)
    chosen = [(name, library) for name in names_of(options.family, options.only) for library in libraries]
    if options.resume:
        chosen = [(name, library) for name, library in chosen if not results.has(name, library)]

    def run(pair: tuple[str, str]) -> None:
        name, library = pair
        found = run_one(name, library, options.limit, options.memory_gib)
        if options.limit != LIMIT:
            found["limit_cpu_seconds"] = options.limit
        if options.memory_gib != MEMORY:
            found["memory_gib"] = options.memory_gib
        results.add(name, library, found)
        word = found.get("failure") or found.get("verdict") or found.get("judged")
        print(f"{name} {library}: {word}, {found.get('share_left')} left", file=sys.stderr, flush=True)

    preload(options.family[0])
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, chosen))
    return len(chosen)


def run_families(options: argparse.Namespace) -> None:
    """Run each family in a process of its own, which imports that family's package alone."""
    passed = ["--only", options.only, "--jobs", str(options.jobs), "--limit", str(options.limit)]
    passed += ["--memory-gib", str(options.memory_gib), "--json", str(options.json)]
    passed += ["--markdown", str(options.markdown)]
    passed += ["--library", options.library] if options.library else []
    passed += ["--resume"] if options.resume else []
    for family in options.family:
        if names_of([family], options.only):
            subprocess.run([sys.executable, __file__, "--family", family, *passed], check=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="names, such as 'resnet*' or 'timm:*vit*'"
    )
    parser.add_argument("--library", choices=LIBRARIES)
    parser.add_argument("--resume", action="store_true", help="leave out what has a result")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=int, default=LIMIT, help="CPU seconds of each phase")
    parser.add_argument("--memory-gib", type=float, default=MEMORY, help="address space of each process")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--markdown", type=Path, default=PAGE)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--list", action="store_true", help="only list the models")
    parser.add_argument("--one", metavar="FAMILY:NAME", help="run one model in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        os.environ.update(SETTINGS)
        library = options.library or "secateur"
        work(options.one, library, options.limit, options.memory_gib, lambda found: print(json.dumps(found)))
        return
    if options.list:
        print("\n".join(names_of(options.family, options.only)))
        return
    if len(options.family) > 1 and not options.page:
        run_families(options)
        return
    settings = {
        "command": f"python benchmarks/zoo.py --memory-gib {options.memory_gib:g}",
        "limit_cpu_seconds": LIMIT,
        "memory_gib": options.memory_gib,
        "machine": machine(),
    }
    results = Results(options.json, settings)
    count = 0 if options.page else run_all(options, results)
    from secateur.write.atomic import atomic_write

    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    atomic_write(options.markdown, write_page(results.data, times).encode())
    print(f"done: {count} runs; {len(results.data['models'])} models are in {options.json}")


if __name__ == "__main__":
    main()
