"""How many wrong cuts does the proof see?

Networks are cut rightly; then wrong cuts are planted, one at a time: two positions of one tensor swapped, a
slice off by one, another channel, heads in another order, a buffer or a number that did not follow
(`faults_runs.kinds`). The proof is asked each time. What it does not see is compared independently
(`faults_runs.truth`): either no output can show it, with the reason, or the proof is blind there.

    python benchmarks/faults.py --resume                    # run what is missing, then write the page
    python benchmarks/faults.py --models "micro:*" --kinds swap shift --limit 20
    python benchmarks/faults.py --page                      # write the page from the results
"""

import argparse
import contextlib
import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"})

import torch
from faults_runs.kinds import KINDS
from faults_runs.networks import all_networks
from faults_runs.page import write_page
from faults_runs.planted import run_network

from secateur.write.atomic import atomic_write

RESULTS = Path("benchmarks/results/faults.json")
PAGE = Path("docs/proof.md")
PROOF = "new"
PER_KIND = {"hidden": 3, "micro": 3, "rule": 2, "zoo": 1}
"""Faults of each kind for each network of a family, at most."""


def save(path: Path, data: dict[str, Any]) -> None:
    """Write the results, a line for each network."""
    blocks = []
    for proof, networks in data.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in networks.items())
        blocks.append(f" {json.dumps(proof)}: {{\n{lines}\n }}")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, ("{\n" + ",\n".join(blocks) + "\n}\n").encode())


def run(options: argparse.Namespace, data: dict[str, Any]) -> int:
    """Run the chosen networks; the file is written anew after each."""
    held = data.setdefault(options.proof, {})
    chosen = all_networks(options.models)
    if options.resume:
        chosen = [network for network in chosen if network.name not in held]
    for network in chosen[: options.limit]:
        per_kind = PER_KIND[network.family.partition(" ")[0]]
        with Path(os.devnull).open("w") as silence, contextlib.redirect_stdout(silence):
            trial = run_network(network, options.kinds, per_kind)
        held[network.name] = {"family": network.family, **{k: v for k, v in asdict(trial).items() if v}}
        save(options.json, data)
        words = trial.refused or f"{sum(trial.seen.values())} of {sum(trial.planted.values())} seen"
        print(f"{network.name}: {words}, {trial.cpu_seconds} s", file=sys.stderr, flush=True)
    return len(chosen[: options.limit])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="*", metavar="PATTERN", help="names or families, 'micro:*'")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--limit", type=int, help="networks at most")
    parser.add_argument("--resume", action="store_true", help="leave out what has a result")
    parser.add_argument("--proof", default=PROOF, help="the name of the proof in the results")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--markdown", type=Path, default=PAGE)
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = json.loads(options.json.read_text()) if options.json.exists() else {}
    count = 0 if options.page else run(options, data)
    if options.page or options.json == RESULTS:
        page = write_page(options.markdown.read_text(), data)
        atomic_write(options.markdown, page.encode())
    print(f"done: {count} networks")


if __name__ == "__main__":
    main()
