"""Is a plan that is driven by measured latency faster than one driven by MACs, at equal accuracy?

VGG-11 at width 1/4 and ResNet-20 at width 1/2 on Fashion-MNIST, trained once and cached. Both kinds of plan
take channels by L2 norm in the same order; one stops at a share of the MACs, the other at a share of the
milliseconds and rounds widths where this machine gains from it. After the cut `absorb` and `refit` with 512
images, no training. All cut models of a network are timed in turn. MACs-driven plans give a curve of latency
against accuracy; a latency-driven plan is compared with that curve at its own accuracy.

    OMP_NUM_THREADS=1 python benchmarks/latency.py --data-dir FOLDER    # 20 minutes and the training; resumes
    OMP_NUM_THREADS=1 python benchmarks/latency.py --page               # writes the page only
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateur as sc
from secateur.costs import latency_in_turn
from secateur.domains.classification import Splits, load
from secateur.domains.classification.images import labelled
from secateur.timing import machine_of, work_in_turn
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.zoo import models as zoo

WIDTHS = {"vgg11": 0.25, "resnet20": 0.5}
MACS = (0.85, 0.65, 0.45, 0.3, 0.2, 0.12)
LATENCIES = ("80%", "60%", "45%")
IMAGES = 512
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/latency.py --data-dir FOLDER"


def trained(name: str, data: Splits, asked: argparse.Namespace) -> nn.Module:
    """The trained network, from the cache if it is there."""
    spec = data.spec
    folder = asked.cache / f"{spec.name}-{name}-{asked.epochs}-epochs"
    torch.manual_seed(0)
    model = zoo[name](
        width=WIDTHS[name],
        in_channels=spec.in_channels,
        num_classes=spec.num_classes,
        image_size=spec.image_size,
    )
    if (folder / "plan.json").exists():
        return sc.load(folder, model)
    config = FitConfig(epochs=asked.epochs, lr=0.05, schedule="cosine", seed=0, threads=1)
    model = fit(model, data, config).model
    sc.save(model, folder)
    return model


def run(name: str, scope: str, data: Splits, asked: argparse.Namespace) -> dict[str, Any]:
    """Cut a network by every budget, recover, and time all of it in turn."""
    model = trained(name, data, asked)
    spec = data.spec
    example = torch.zeros(asked.batch, spec.in_channels, spec.image_size, spec.image_size)
    images = [batch for batch, _ in labelled(data.train, IMAGES, 0)]
    models, plans, refused = [model], [], []
    for budget in [*({"macs": share} for share in MACS), *({"latency_ms": share} for share in LATENCIES)]:
        began = time.process_time()
        try:
            result = sc.prune(model, example, **budget, criterion="l2", scope=scope, min_keep=0.05)
        except sc.errors.RequestError as error:
            refused.append(error.what)
            continue
        seconds = time.process_time() - began
        better = sc.recover(result, images, ["absorb", "refit"])
        account = result.plan.account
        models.append(better.model)
        plans.append(
            {
                "budget": next(iter(budget)),
                "asked": str(next(iter(budget.values()))),
                "macs_left": result.after.macs / result.before.macs,
                "accuracy": evaluate(better.model, data.test, threads=1).accuracy,
                "predicted_ms": account.reached if "latency_ms" in budget else None,
                "measured_ms": account.measured,
                "wanted_ms": account.wanted if "latency_ms" in budget else None,
                "widths": [len(kept) for kept in result.plan.keep.values()],
                "cpu_seconds": seconds,
            }
        )
        print(plans[-1], flush=True)
    dense, *timed = latency_in_turn(models, example, rounds=9, repeats=15)
    whole, *works = work_in_turn(models, example)
    for plan, found, work in zip(plans, timed, works, strict=True):
        plan |= {"ms": work, "wall_ms": found.median_ms, "quartiles_ms": [found.lower_ms, found.upper_ms]}
    return {
        "model": name,
        "scope": scope,
        "batch": asked.batch,
        "epochs": asked.epochs,
        "accuracy": evaluate(model, data.test, threads=1).accuracy,
        "ms": whole,
        "wall_ms": dense.median_ms,
        "quartiles_ms": [dense.lower_ms, dense.upper_ms],
        "machine": dict(machine_of(torch.device("cpu"))),
        "plans": plans,
        "refused": refused,
    }


def at_equal_accuracy(row: dict[str, Any], accuracy: float) -> float | None:
    """The milliseconds that a MACs-driven plan of this accuracy takes, between the nearest two."""
    points = [(plan["accuracy"], plan["ms"]) for plan in row["plans"] if plan["budget"] == "macs"]
    points = sorted([*points, (row["accuracy"], row["ms"])])
    if not points[0][0] <= accuracy <= points[-1][0]:
        return None
    return float(np.interp(accuracy, *zip(*points, strict=True)))


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    gains = [
        equal / plan["ms"]
        for row in rows
        for plan in row["plans"]
        if plan["budget"] == "latency_ms" and (equal := at_equal_accuracy(row, plan["accuracy"])) is not None
    ]
    faster = sum(gain > 1 for gain in gains)
    sections = "\n".join(map(section, rows))
    return f"""# Latency-driven plans beside MACs-driven ones

<!-- Generated by benchmarks/latency.py from benchmarks/results/latency.json; do not edit. -->

Networks trained on Fashion-MNIST, cut by L2 norm with a budget of MACs or of milliseconds on this machine,
then `absorb` and `refit` with {IMAGES} images, no training. All models of a table are timed in turn: "ms"
is the CPU time of a pass, the shortest of many, since other work ran on the machine; "wall ms" the median of
the fastest of nine rounds by the clock. "MACs plan": what a MACs-driven plan of the same accuracy takes,
interpolated between the two nearest.

Of {len(gains)} latency-driven plans {faster} are faster than the MACs-driven plan of equal accuracy; the gain
is {np.median(gains):.2f} times in the median, from {min(gains):.2f} to {max(gains):.2f}.

{sections}
Machine: {rows[0]["machine"]["processor"]}, {rows[0]["machine"]["capability"]}, one thread, torch
{torch.__version__.partition("+")[0]}.

    {COMMAND}
"""


def section(row: dict[str, Any]) -> str:
    """The table of one network."""
    lines = [
        f"## {row['model']}, scope {row['scope']}, batch {row['batch']}",
        "",
        f"Uncut: {row['accuracy']:.2%}, {row['ms']:.2f} ms.",
        "",
        "| budget | MACs left | accuracy | ms | wall ms | off target | MACs plan ms | gain | widths |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for plan in row["plans"]:
        timed = plan["budget"] == "latency_ms"
        equal = at_equal_accuracy(row, plan["accuracy"]) if timed else None
        cells = [
            f"{plan['budget']}={plan['asked']}",
            f"{plan['macs_left']:.0%}",
            f"{plan['accuracy']:.2%}",
            f"{plan['ms']:.2f}",
            f"{plan['wall_ms']:.2f}",
            f"{plan['measured_ms'] / plan['wanted_ms'] - 1:+.1%}" if timed else "",
            "" if equal is None else f"{equal:.2f}",
            "" if equal is None else f"{equal / plan['ms']:.2f}",
            " ".join(map(str, plan["widths"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"Refused: {what}." for what in row["refused"])] if row["refused"] else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--cases", nargs="+", default=["vgg11:global", "vgg11:local", "resnet20:global"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=Path("runs/latency"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/latency.json"))
    parser.add_argument("--to", type=Path, default=Path("docs/benchmarks/latency.md"))
    parser.add_argument("--page", action="store_true", help="only write the page")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = json.loads(asked.json.read_text()) if asked.json.exists() else []
    for case in [] if asked.page else asked.cases:
        name, _, scope = case.partition(":")
        if not any((row["model"], row["scope"]) == (name, scope) for row in rows):
            rows.append(run(name, scope, load(asked.data, data_dir=asked.data_dir), asked))
            atomic_write(asked.json, (json.dumps(rows, indent=1) + "\n").encode())
    atomic_write(asked.to, page(rows).encode())
    print(page(rows))


if __name__ == "__main__":
    main()
