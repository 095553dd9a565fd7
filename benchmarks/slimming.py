"""Network slimming on Fashion-MNIST: what sparse training, pruning and fine-tuning cost and keep.

    python benchmarks/slimming.py --seeds 0 1 2 --strengths 1e-3 3e-3 5e-3 --ratios 0.5 0.7

VGG-11 at a quarter of its width. For each seed: dense; sparse with each strength; each sparse network (and
the dense one, by L2 norm) with 50 % and 70 % of its channels cut, before fine-tuning and after 1 and 3
epochs. Every figure is written as soon as it is known; a run that was stopped goes on where it was.

    python benchmarks/slimming.py --cliff --seeds 0 1 2 --strengths 1e-3 3e-3  # writes a page, too
    python benchmarks/slimming.py --cliff --page                               # the page only

With `--cliff`, the table that network slimming is known by instead: accuracy without fine-tuning against the
share of channels pruned, 0 to 0.8 over all layers together, by batch-norm scale; right after the cut and
after recovery (no labels, no training). What `--runs` holds already is not trained again.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.domains.classification import Splits, load
from secateur.domains.classification.images import calibration
from secateur.penalise import penalties
from secateur.penalise.scales import prunable_scales
from secateur.penalise.sparsity import near_zero_share
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.zoo import models

EXAMPLE = torch.zeros(1, 1, 28, 28)
BATCH = torch.zeros(64, 1, 28, 28)
STEPS = ("absorb", "refit", "batch-norm")
IMAGES = 512
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


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


def run_cliff(seed: int, args: argparse.Namespace, ledger: Ledger, data: Splits) -> None:
    """Cut each network of one seed by every share, and recover it."""
    torch.manual_seed(seed)
    start = models["vgg11"](width=0.25, in_channels=1, image_size=28, gamma=0.5)
    base = {"epochs": args.epochs, "lr": args.lr, "schedule": "cosine", "batch_size": 64, "seed": seed}
    images = calibration(data.train, IMAGES, seed)
    for strength in [0.0, *args.strengths]:
        model = train(start, data, args.runs / f"s{strength:g}-seed{seed}", base, strength)
        for share in args.shares:
            key = {"seed": seed, "strength": strength, "share": share}
            if not ledger.find(**key):
                ledger.add(
                    **key, epochs=args.epochs, **cut_and_recover(model, share, args.min_keep, images, data)
                )


def cut_and_recover(
    model: nn.Module, share: float, min_keep: float, images: list[Tensor], data: Splits
) -> dict[str, float]:
    """Accuracies of a network without a share of its channels; nothing is cut from it for share 0."""
    found = {"accuracy": evaluate(model, data.test, threads=1).accuracy, "macs_left": 1.0, "cpu_seconds": 0.0}
    if share == 0:
        return found | {"recovered": found["accuracy"]}
    result = sc.prune(model, EXAMPLE, ratio=share, criterion="bn-scale", min_keep=min_keep)
    begin = time.process_time()
    better = sc.recover(result, images, STEPS)
    return {
        "accuracy": evaluate(result.model, data.test, threads=1).accuracy,
        "recovered": evaluate(better.model, data.test, threads=1).accuracy,
        "macs_left": result.after.macs / result.before.macs,
        "cpu_seconds": time.process_time() - begin,
    }


def cliff_page(rows: list[dict], command: str) -> str:
    """The cliff as a page of the documentation."""
    seeds = sorted({row["seed"] for row in rows})
    shares = sorted({row["share"] for row in rows})
    lines = [f"| s | | {' | '.join(f'{share:g}' for share in shares)} |", "|---|---|" + "---|" * len(shares)]
    told = []
    for strength in sorted({row["strength"] for row in rows}):
        cells: dict[str, list[str]] = defaultdict(list)
        means: dict[str, dict[float, float]] = defaultdict(dict)
        for share in shares:
            held = [row for row in rows if (row["strength"], row["share"]) == (strength, share)]
            left = [100 * row["macs_left"] for row in held]
            cells["MACs left %"].append(f"{statistics.mean(left):.0f}" if left else "-")
            for name, item in (("cut", "accuracy"), ("recovered", "recovered")):
                values = [100 * row[item] for row in held]
                cells[name].append(mean_sd(values))
                if values:
                    means[name][share] = statistics.mean(values)
        lines += [f"| {strength:g} | {name} | {' | '.join(held)} |" for name, held in cells.items()]
        told.append(
            f"- s = {strength:g}: {last_before(means['cut'])} right after the cut, "
            f"{last_before(means['recovered'])} after recovery"
        )
    return f"""# Where the cliff of network slimming moves to

<!-- Generated by benchmarks/slimming.py from benchmarks/results/cliff.json; do not edit. -->

VGG-11 at a quarter of its width on Fashion-MNIST, {rows[0]["epochs"]} epochs with the L1 penalty of strength
s on the batch-norm scales (0: dense). Test accuracy in % against the share of channels pruned, over all
layers together by batch-norm scale, without fine-tuning: right after the cut, and after recovery
({", ".join(STEPS)}; {IMAGES} training images, no labels, no training). Mean ± standard deviation; seeds:
{", ".join(map(str, seeds))}.

{chr(10).join(lines)}

The cliff: the largest share that loses less than one point, over all shares up to it.

{chr(10).join(told)}

torch {torch.__version__.partition("+")[0]}, one thread.

    {command}
"""


def last_before(means: dict[float, float], loss: float = 1.0) -> str:
    """The largest share up to which no more than some points are lost."""
    first = min(means)
    safe = [share for share in means if all(means[first] - means[s] <= loss for s in means if s <= share)]
    return f"{max(safe):g}"


def mean_sd(values: list[float]) -> str:
    """`12.34 ± 0.56`, or a dash for nothing."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


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
    parser.add_argument("--json", type=Path, help="benchmarks/results/slimming.json, or cliff.json there")
    parser.add_argument("--cliff", action="store_true", help="accuracy against the share pruned, only")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of --cliff")
    parser.add_argument("--to", type=Path, default=Path("docs/benchmarks/slimming.md"), help="of --cliff")
    parser.add_argument("--page", action="store_true", help="with --cliff: only write the page")
    args = parser.parse_args()
    args.json = args.json or Path("benchmarks/results", "cliff.json" if args.cliff else "slimming.json")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ledger = Ledger(args.json)
    data = None if args.page else load("fashion-mnist", data_dir=args.data_dir)
    if args.cliff:
        for seed in [] if args.page else args.seeds:
            run_cliff(seed, args, ledger, data)
        command = json.loads(args.json.read_text())["command"]
        atomic_write(args.to, cliff_page(ledger.rows, command).encode())
        print(f"wrote {args.json} and {args.to}")
        return
    for seed in args.seeds:
        run_seed(seed, args, ledger, data)
    print(table(ledger.rows))
    print(f"wrote {args.json}")


if __name__ == "__main__":
    main()
