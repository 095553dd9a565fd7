"""How long does it take to find which channels belong together, beside Torch-Pruning?

secateur captures the model (`capture`) and solves the record (`couple_graph`); Torch-Pruning builds its
dependency graph (`DependencyGraph().build_dependency`) and enumerates its groups (`get_all_groups`), which is
where it finds the coupled channels. Every repeat is a fresh process with one thread; imports, the making of
the model and one warm-up on a tiny model are not counted. All figures are CPU seconds of that process.

    python benchmarks/couple.py --json benchmarks/results/couple.json --markdown docs/benchmarks/couple.md
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

OUTPUTS = "--json benchmarks/results/couple.json --markdown docs/benchmarks/couple.md"
PHASES = {"secateur": ("capture", "solve"), "torch-pruning": ("build", "groups")}
TORCHVISION = (
    "resnet18",
    "densenet121",
    "mobilenet_v2",
    "googlenet",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "densenet201",
)
CHAINS = (50, 200, 800)
STACKS = (16, 32, 64)
CASES = (
    *TORCHVISION,
    *(f"chain-{depth}" for depth in CHAINS),
    *(f"dense-stack-{depth}" for depth in STACKS),
)
WIDTH = 8
WALL_PER_CPU = 4
"""A repeat may take this many times its CPU limit on the clock, for busy machines."""


def chain(depth: int) -> nn.Module:
    """A chain of conv-bn-relu."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Conv2d(WIDTH if index else 3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers)


class DenseStack(nn.Module):
    """Convolutions each of which reads the concatenation of all before it; the first reads the image."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(WIDTH * index or 3, WIDTH, 3, padding=1) for index in range(depth)
        )

    def forward(self, image: Tensor) -> Tensor:
        """The output of the last convolution."""
        seen: list[Tensor] = []
        for conv in self.convs:
            seen.append(conv(torch.cat(seen, dim=1) if seen else image))
        return seen[-1]


def make_case(name: str) -> tuple[nn.Module, Tensor]:
    """The model of a case, in eval mode, and its input."""
    if name in TORCHVISION:
        warnings.simplefilter("ignore")  # googlenet announces a change of its initialisation
        return getattr(torchvision.models, name)(weights=None).eval(), torch.zeros(1, 3, 224, 224)
    kind, depth = name.rsplit("-", 1)
    make = {"chain": chain, "dense-stack": DenseStack}[kind]
    return make(int(depth)).eval(), torch.zeros(1, 3, 32, 32)


def secateur_phases(model: nn.Module, image: Tensor) -> Iterator[int]:
    """Run secateur's phases; yields a count after each: nodes, groups."""
    from secateur.capture import capture
    from secateur.coupling import couple_graph

    graph = capture(model, image)
    yield len(graph.nodes)
    yield len(list(couple_graph(graph)))


def torch_pruning_phases(model: nn.Module, image: Tensor) -> Iterator[int]:
    """Run Torch-Pruning's phases; yields a count after each: nodes, groups."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image)
    yield len(graph.module2node)
    yield len(list(graph.get_all_groups()))


def run_worker(library: str, case: str, limit: int) -> None:
    """Measure one repeat in this process; prints a JSON line after each phase."""
    torch.set_num_threads(1)
    phases: Callable[[nn.Module, Tensor], Iterator[int]] = {
        "secateur": secateur_phases,
        "torch-pruning": torch_pruning_phases,
    }[library]
    for _ in phases(chain(2).eval(), torch.zeros(1, 3, 8, 8)):
        pass
    print_phases(PHASES[library], phases(*make_case(case)), limit)


def print_phases(names: Sequence[str], running: Iterator[int | dict[str, Any]], limit: int) -> None:
    """Time what an iterator does for each item; prints a JSON line a phase: its CPU seconds, and the item."""
    before = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(before) + limit, resource.RLIM_INFINITY))
    for phase in names:
        start = time.process_time()
        try:
            found = next(running)
        except Exception as error:  # noqa: BLE001 - a library that fails is a result
            print(json.dumps({"phase": phase, "failure": type(error).__name__}), flush=True)
            return
        seconds = round(time.process_time() - start, 4)
        facts = found if isinstance(found, dict) else {"count": found}
        print(json.dumps({"phase": phase, "cpu_seconds": seconds, **facts}), flush=True)


def run_repeat(library: str, case: str, limit: int) -> dict[str, Any]:
    """Measure one repeat in a fresh process; see `collect_phases`."""
    words = ["--worker", library, "--cases", case, "--limit", str(limit)]
    return collect_phases([sys.executable, __file__, *words], limit)


def collect_phases(command: list[str], limit: int, wall_per_cpu: float = WALL_PER_CPU) -> dict[str, Any]:
    """Run a process that calls `print_phases`, with one thread.

    Args:
        command: The process.
        limit: CPU seconds that it gave itself.
        wall_per_cpu: It may take this many times as long on the clock.

    Returns:
        "<phase>_cpu_seconds" and "<phase>_<fact>" of each complete phase, and "failure" if one is missing:
        "time limit" or the name of the exception.
    """
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    wall = wall_per_cpu * limit
    try:
        done = subprocess.run(
            command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=wall, check=False
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, code = (error.stdout or b"").decode(), -signal.SIGXCPU
    result: dict[str, Any] = {}
    for line in filter(lambda text: text.startswith('{"phase"'), output.splitlines()):
        found = json.loads(line)
        if "failure" in found:
            return {**result, "failure": found["failure"]}
        phase = found.pop("phase")
        result.update({f"{phase}_{fact}": value for fact, value in found.items()})
    if code == -signal.SIGXCPU:
        result["failure"] = "time limit"
    elif code:
        result["failure"] = f"exit code {code}"
    return result


def measure(library: str, case: str, repeats: int, limit: int) -> dict[str, Any]:
    """Measure all repeats of a case; one that fails is not repeated."""
    raw: list[dict[str, Any]] = []
    while len(raw) < repeats and not (raw and "failure" in raw[-1]):
        raw.append(run_repeat(library, case, limit))
        print(f"{case} {library} {len(raw)}/{repeats}: {raw[-1]}", file=sys.stderr)
    keys = [f"{phase}_cpu_seconds" for phase in PHASES[library]]
    found: dict[str, Any] = {"raw": raw}
    for key in keys:
        values = [one[key] for one in raw if key in one]
        if values:
            found[f"median_{key}"] = round(median(values), 4)
    if "failure" in raw[-1]:
        found["failure"] = raw[-1]["failure"]
    else:
        found["median_total_cpu_seconds"] = round(median(sum(one[key] for key in keys) for one in raw), 4)
    return found


def ratio_of(case: dict[str, Any], limit: int) -> tuple[float | None, bool]:
    """Torch-Pruning's total over secateur's, and whether it is only a lower bound."""
    ours = case["secateur"].get("median_total_cpu_seconds")
    theirs = case["torch-pruning"].get("median_total_cpu_seconds")
    is_bound = case["torch-pruning"].get("failure") == "time limit"
    if ours is None or (theirs is None and not is_bound):
        return None, False
    return round((limit if theirs is None else theirs) / ours, 1), is_bound


def machine(packages: Sequence[str] = ("torch", "torchvision", "torch-pruning")) -> dict[str, Any]:
    """What the figures depend on; no host names, no paths."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **versions,
    }


def compare(cases: list[str], repeats: int, limit: int) -> dict[str, Any]:
    """Measure both libraries on all cases."""
    results: dict[str, Any] = {
        "command": f"python benchmarks/couple.py --repeats {repeats} --limit {limit} {OUTPUTS}",
        "unit": "CPU seconds",
        "machine": machine(),
        "threads": 1,
        "repeats": repeats,
        "limit_cpu_seconds": limit,
        "cases": {},
    }
    for name in cases:
        case = {library: measure(library, name, repeats, limit) for library in PHASES}
        case["ratio"], case["ratio_is_lower_bound"] = ratio_of(case, limit)
        results["cases"][name] = case
    return results


def _cell(found: dict[str, Any], key: str, limit: int) -> str:
    seconds = found.get(f"median_{key}_cpu_seconds")
    if seconds is not None:
        return f"{seconds:.2f}"
    return f"> {limit}" if found["failure"] == "time limit" else found["failure"]


def markdown(results: dict[str, Any]) -> str:
    """The page that shows the results."""
    limit, facts = results["limit_cpu_seconds"], results["machine"]
    lines = [
        "# Coupling time beside Torch-Pruning",
        "",
        "<!-- Generated by benchmarks/couple.py from benchmarks/results/couple.json; do not edit. -->",
        "",
        f"CPU seconds, median of {results['repeats']} fresh processes with one thread; imports, the making",
        "of the model and one warm-up on a tiny model are not counted. secateur: `capture`, then",
        "`couple_graph`. Torch-Pruning: `build_dependency`, then all of `get_all_groups`. The ratio is",
        "Torch-Pruning's total over secateur's: above 1, secateur is faster.",
        f"Limit: {limit} CPU seconds a repeat.",
        "",
        "| case | capture | solve | total | Torch-Pruning: build | groups | total | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in results["cases"].items():
        cells = [
            _cell(case[library], key, limit) for library in PHASES for key in (*PHASES[library], "total")
        ]
        bound = "> " if case["ratio_is_lower_bound"] else ""
        ratio = f"{bound}{case['ratio']:.1f}" if case["ratio"] is not None else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    lines += [
        "",
        "`chain-N`: N times conv-bn-relu; `dense-stack-N`: N convolutions, each reads the concatenation of",
        f"all before it; both of width {WIDTH} at 32 px. The others: torchvision, 224 px.",
        "",
        f"Machine: {facts['cpus']} CPUs ({facts['architecture']}), Python {facts['python']}, "
        f"torch {facts['torch']}, torchvision {facts['torchvision']},",
        f"torch-pruning {facts['torch-pruning']}; {facts['date']}.",
        "",
        f"    {results['command']}",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=120, help="CPU seconds a repeat may take")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--worker", choices=PHASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run_worker(options.worker, options.cases[0], options.limit)
        return
    from secateur.write.atomic import atomic_write

    results = compare(options.cases, options.repeats, options.limit)
    if options.json:
        atomic_write(options.json, (json.dumps(results, indent=2) + "\n").encode())
    if options.markdown:
        atomic_write(options.markdown, markdown(results).encode())
    print(markdown(results))
    ratios = [case["ratio"] for case in results["cases"].values() if case["ratio"] is not None]
    spread = f"{min(ratios):.1f} to {max(ratios):.1f}" if ratios else "none"
    print(f"done: {len(results['cases'])} cases, Torch-Pruning / secateur: {spread}")


if __name__ == "__main__":
    main()
