"""Does it scale: in nodes, in widths, in memory?

Three questions, each measured in fresh processes with one thread:

growth      CPU seconds against the number of recorded operators, for three deep stacks, beside
            Torch-Pruning; secateur also with widths of 8 to 4,096 on the meta device
language    a Llama of 7 and one of 8 billion parameters on the meta device: CPU seconds of each stage and
            peak memory
checkpoint  a random checkpoint on the disk is planned and cut by streaming: peak memory beside the shard size

    python benchmarks/scale.py                      # everything; about 40 minutes, 5 GB of disk for a while
    python benchmarks/scale.py --only language      # one question; the others stay as they are in the results
    python benchmarks/scale.py --only page          # the page and the figure from the results
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import couple
import torch
from scale_runs import checkpoint, language
from scale_runs.page import write_page
from scale_runs.stacks import STACKS, make_stack
from torch import Tensor, nn

from secateur.write.atomic import atomic_write

RESULTS = Path("benchmarks/results/scale.json")
PAGE, FIGURE = Path("docs/benchmarks/scale.md"), Path("docs/benchmarks/scale.svg")
NODES = (100, 200, 400, 800, 1600, 3200)
WIDTHS = (8, 64, 512, 4096)
WIDTH_NODES = 800
WALL_PER_CPU = 12
"""A process may take this many times its CPU limit on the clock, for busy machines."""
LONG = 20
"""CPU seconds; a measurement that takes longer is not repeated."""
QUESTIONS = ("growth", "widths", "language", "checkpoint")
LIBRARIES = {"secateur": couple.secateur_phases, "torch-pruning": couple.torch_pruning_phases}


def run_worker(words: list[str], limit: int) -> None:
    """Measure one thing in this process; prints a JSON line after each phase."""
    torch.set_num_threads(1)
    question, *rest = words
    if question == "stack":
        library, kind, nodes, width, device = rest
        phases: Callable[[nn.Module, Tensor], Iterator[Any]] = LIBRARIES[library]
        for _ in phases(*make_stack("chain", 8)):
            pass
        running = phases(*make_stack(kind, int(nodes), int(width), device))
        couple.print_phases(couple.PHASES[library], running, limit)
    elif question == "language":
        couple.print_phases(language.PHASES, language.phases(rest[0]), limit)
    else:
        couple.print_phases(("start", rest[0]), checkpoint.run_job(rest[0], Path(rest[1])), limit)


def measure(words: list[str], limit: int, repeats: int = 1) -> dict[str, Any]:
    """Measure in fresh processes: the median of each number, and every repeat; long ones stand alone."""
    raw: list[dict[str, Any]] = []
    while len(raw) < repeats and not (raw and ("failure" in raw[-1] or _cpu_seconds(raw[-1]) > LONG)):
        command = [sys.executable, __file__, "--limit", str(limit), "--worker", *words]
        raw.append(couple.collect_phases(command, limit, WALL_PER_CPU))
        print(f"{' '.join(words)} {len(raw)}/{repeats}: {raw[-1]}", file=sys.stderr)
    if "failure" in raw[-1]:
        return {"failure": raw[-1]["failure"], "raw": raw}
    found: dict[str, Any] = {key: median(one[key] for one in raw) for key in raw[0]}
    return {**found, "raw": raw} if repeats > 1 else found


def _cpu_seconds(found: dict[str, Any]) -> float:
    return sum(value for fact, value in found.items() if fact.endswith("cpu_seconds"))


def total(found: dict[str, Any], library: str) -> float | None:
    """CPU seconds of all phases of a library."""
    if "failure" in found:
        return None
    return round(sum(found[f"{phase}_cpu_seconds"] for phase in couple.PHASES[library]), 4)


def measure_growth(repeats: int, limit: int) -> dict[str, Any]:
    """Both libraries on every stack; one that runs out of time is not asked for more."""
    results: dict[str, Any] = {}
    for kind in STACKS:
        for library in LIBRARIES:
            points: dict[str, Any] = {}
            for nodes in NODES:
                words = ["stack", library, kind, str(nodes), "8", "cpu"]
                found = measure(words, limit, repeats)
                points[str(nodes)] = {"total_cpu_seconds": total(found, library), **found}
                if "failure" in found:
                    break
            results.setdefault(kind, {})[library] = points
    return results


def measure_widths(repeats: int, limit: int) -> dict[str, Any]:
    """Ours with wide and narrow layers, on the meta device."""
    results: dict[str, Any] = {}
    for kind in ("chain", "residual"):
        for width in WIDTHS:
            words = ["stack", "secateur", kind, str(WIDTH_NODES), str(width), "meta"]
            found = measure(words, limit, repeats)
            results.setdefault(kind, {})[str(width)] = {
                "total_cpu_seconds": total(found, "secateur"),
                **found,
            }
    return results


def measure_language(repeats: int, limit: int) -> dict[str, Any]:
    """Every language model on the meta device."""
    return {name: measure(["language", name], limit, repeats) for name in language.MODELS}


def measure_checkpoint(limit: int) -> dict[str, Any]:
    """Make, plan, stream and compare a checkpoint; it is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="secateur-scale-"))
    try:
        found = {job: measure(["checkpoint", job, str(folder)], limit) for job in checkpoint.JOBS}
    finally:
        shutil.rmtree(folder)
    return {"sizes": checkpoint.SIZES, "shard_bytes": checkpoint.SHARD_BYTES, **found}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=(*QUESTIONS, "page"), default=list(QUESTIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=120, help="CPU seconds a process may take")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run_worker(options.worker, options.limit)
        return
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "growth": lambda: measure_growth(options.repeats, options.limit),
        "widths": lambda: measure_widths(options.repeats, options.limit),
        "language": lambda: measure_language(options.repeats, options.limit),
        "checkpoint": lambda: measure_checkpoint(10 * options.limit),
    }
    for question in options.only:
        if question in measures:
            settings = {"machine": couple.machine(("torch", "transformers", "torch-pruning", "safetensors"))}
            settings |= {"limit_cpu_seconds": options.limit, "repeats": options.repeats}
            results[question] = {**settings, "found": measures[question]()}
            atomic_write(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_page(results, PAGE, FIGURE)
    print(f"wrote {RESULTS}, {PAGE} and {FIGURE}")


if __name__ == "__main__":
    main()
