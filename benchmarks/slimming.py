"""Network slimming on Fashion-MNIST: what sparse training, pruning and fine-tuning cost and keep.

    python benchmarks/slimming.py --seeds 0 1 2 --strengths 1e-3 3e-3 5e-3 --ratios 0.5 0.7

VGG-11 at a quarter of its width. For each seed: dense; sparse with each strength; each sparse network (and
the dense one, by L2 norm) with 50 % and 70 % of its channels cut, before fine-tuning and after 1 and 3
epochs. Every figure is written as soon as it is known; a run that was stopped goes on where it was.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

import secateur as sc
from secateur.domains.classification import Splits, load
from secateur.penalise import penalties
from secateur.penalise.scales import prunable_scales
from secateur.penalise.sparsity import near_zero_share
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.zoo import models

EXAMPLE = torch.zeros(1, 1, 28, 28)
BATCH = torch.zeros(64, 1, 28, 28)


class Ledger:
    """Rows of the benchmark in a JSON file, found again by their key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = json.loads(path.read_text())["rows"] if path.exists() else []

    def find(self, **key: object) -> dict | None:
        """The row with this key, if it was measured before."""
        return next(
            (row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None
        )

    def add(self, **row: object) -> None:
        """Write a row down."""
        self.rows.append(row)
        content = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__, "rows": self.rows}
        atomic_write(self.path, json.dumps(content, indent=1).encode())
        print(json.dumps(row), file=sys.stderr, flush=True)


def measure(model: nn.Module, data: Splits) -> dict[str, float]:
    """Test accuracy and cost of a model; latency is that of a batch of 64, one thread."""
    cost = sc.measure(model, EXAMPLE)
    return {
        "accuracy": evaluate(model, data.test, threads=1).accuracy,
        "params": cost.params,
        "macs": cost.macs,
        "latency_ms": sc.latency(model, BATCH).median_ms,
    }


def train(start: nn.Module, data: Splits, folder: Path, config: dict, strength: float = 0.0) -> nn.Module:
    """Train, or take up what an earlier call trained."""
    penalty = None
    if strength:
        scales = prunable_scales(start, sc.couple(start, EXAMPLE))
        penalty = penalties["bn-l1"](scales, strength)
    keep = "last" if strength else "best"
    run = FitConfig(**config, keep=keep, save=folder, resume=True, threads=1, log_interval=200)
    return fit(start, data, run, penalty).model


def run_seed(seed: int, args: argparse.Namespace, ledger: Ledger, data: Splits) -> None:
    """Everything for one seed."""
    torch.manual_seed(seed)
    start = models["vgg11"](width=0.25, in_channels=1, image_size=28, gamma=0.5)
    base = {"epochs": args.epochs, "lr": args.lr, "schedule": "cosine", "batch_size": 64, "seed": seed}
    for strength in [0.0, *args.strengths]:
        name = f"s{strength:g}-seed{seed}"
        model = train(start, data, args.runs / name, base, strength)
        if not ledger.find(stage="trained", seed=seed, strength=strength):
            scales = prunable_scales(model, sc.couple(model, EXAMPLE))
            share = near_zero_share(scales)
            ledger.add(stage="trained", seed=seed, strength=strength, near_zero=share, **measure(model, data))
        for ratio in args.ratios:
            prune_and_tune(model, strength, ratio, seed, args, ledger, data)


def prune_and_tune(
    model: nn.Module,
    strength: float,
    ratio: float,
    seed: int,
    args: argparse.Namespace,
    ledger: Ledger,
    data: Splits,
) -> None:
    """Cut one network and fine-tune the rest."""
    key = {"seed": seed, "strength": strength, "ratio": ratio}
    criterion = "bn-scale" if strength else "l2"
    for recover in ([], ["absorb"]):
        result = sc.prune(
            model, EXAMPLE, ratio=ratio, criterion=criterion, min_keep=args.min_keep, recover=recover
        )
        stage = "pruned+absorb" if recover else "pruned"
        if not ledger.find(stage=stage, **key):
            ledger.add(
                stage=stage,
                criterion=criterion,
                verdict=str(result.verdict),
                **key,
                **measure(result.model, data),
            )
    for epochs in args.finetune:
        if ledger.find(stage=f"finetuned-{epochs}", **key):
            continue
        config = {
            "epochs": epochs,
            "lr": args.finetune_lr,
            "schedule": "cosine",
            "batch_size": 64,
            "seed": seed,
        }
        name = f"s{strength:g}-seed{seed}-r{ratio:g}-e{epochs}"
        tuned = train(result.model, data, args.runs / name, config)
        ledger.add(stage=f"finetuned-{epochs}", criterion=criterion, **key, **measure(tuned, data))


def table(rows: list[dict]) -> str:
    """Means over the seeds as a Markdown table."""
    cells: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        cells[row["strength"], row.get("ratio", 0.0), row["stage"]].append(row)
    lines = [
        "| s | channels cut | stage | accuracy % (mean ± sd) | near zero % "
        "| parameters | MACs | latency ms | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (strength, ratio, stage), held in sorted(cells.items(), key=lambda cell: cell[0][:2]):
        accuracy = [100 * row["accuracy"] for row in held]
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        near = (
            f"{100 * statistics.mean(row['near_zero'] for row in held):.0f}" if "near_zero" in held[0] else ""
        )
        means = [statistics.mean(row[name] for row in held) for name in ("params", "macs", "latency_ms")]
        lines.append(
            f"| {strength:g} | {ratio:.0%} | {stage} "
            f"| {statistics.mean(accuracy):.2f} ± {spread:.2f} | {near} "
            f"| {means[0]:,.0f} | {means[1]:,.0f} | {means[2]:.2f} | {len(held)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is asked and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strengths", type=float, nargs="*", default=[1e-3, 3e-3, 5e-3])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--finetune", type=int, nargs="+", default=[1, 3], help="epochs of fine-tuning")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--finetune-lr", type=float, default=0.02)
    parser.add_argument("--min-keep", type=float, default=0.1)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/slimming"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/slimming.json"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = load("fashion-mnist", data_dir=args.data_dir)
    ledger = Ledger(args.json)
    for seed in args.seeds:
        run_seed(seed, args, ledger, data)
    print(table(ledger.rows))
    print(f"wrote {args.json}")


if __name__ == "__main__":
    main()
