"""Masks on Fashion-MNIST: what one-shot, AGP and lottery tickets keep, and what sparsity saves for real.

    python benchmarks/masks.py --epochs 1 --train 10000

LeNet and VGG-11 at a quarter of its width, at 50, 80, 90 and 95 % global sparsity. A dense network is
trained; "one-shot" masks it and trains on, "agp" masks it by the cubic schedule while it trains on, "lottery"
rewinds to the initial weights, in as many rounds of masking as asked, and trains the ticket; "channels" masks
whole channels with all that belongs to them (bias, batch norm) and trains on. Every network sees the same
number of steps after the dense one. Size is that of the packed file, latency that of the dense kernels (a
mask alone), of CSR linear layers, and of the network cut by `plan_from_masks`. Every figure is written as
soon as it is known; a run that was stopped goes on where it was.
"""

import argparse
import contextlib
import copy
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import secateur as sc
from secateur.domains.classification import Splits, load
from secateur.errors import RequestError
from secateur.train import evaluate
from secateur.write.atomic import atomic_write
from secateur.zoo import models

EXAMPLE = torch.zeros(1, 1, 28, 28)


class LeNet(nn.Module):
    """The network of PyTorch's pruning tutorial, for 28x28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


def build(name: str) -> nn.Module:
    """A fresh network."""
    if name == "lenet":
        return LeNet()
    return models["vgg11"](width=0.25, in_channels=1, image_size=28)


class Bench:
    """One run of the benchmark: settings, data, and rows that are written as they come."""

    def __init__(self, args: argparse.Namespace, data: Splits) -> None:
        self.args, self.data, self.path = args, data, args.json
        self.rows = json.loads(self.path.read_text())["rows"] if self.path.exists() else []

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch."""
        whole = len(self.data.train.batches(64, training=True, seed=0, epoch=1, workers=0, pin_memory=False))
        return min(whole, -(-self.args.train // 64)) if self.args.train else whole

    def has(self, **key: object) -> bool:
        """Whether the row with this key was measured before."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, **row: object) -> None:
        """Write a row down."""
        self.rows.append(row)
        content = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__, "rows": self.rows}
        atomic_write(self.path, json.dumps(content, indent=1).encode())
        print(json.dumps(row), file=sys.stderr, flush=True)

    def train(
        self, model: nn.Module, epochs: int, make_stepper: Callable | None = None, first_epoch: int = 1
    ) -> nn.Module:
        """SGD with momentum and a linear warm-down, in place; the stepper is driven after each step."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.args.lr, momentum=0.9, weight_decay=5e-4)
        total = epochs * self.steps
        stepper = make_stepper(model, optimizer, total) if make_stepper else None
        done = 0
        model.train()
        for epoch in range(first_epoch, first_epoch + epochs):
            batches = self.data.train.batches(
                64, training=True, seed=self.args.seed, epoch=epoch, workers=0, pin_memory=False
            )
            for images, labels in islice(batches, self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.args.lr * (1 - done / total)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                if stepper is not None:
                    stepper.step()
                done += 1
        return model.eval()

    def measure(self, model: nn.Module) -> dict[str, object]:
        """Accuracy, packed size and latency of a masked (or dense) network."""
        plain = copy.deepcopy(model).eval()
        if sc.mask.is_pruned(plain):
            sc.mask.remove(plain)
        with tempfile.TemporaryDirectory() as folder:
            sc.save(plain, folder, packed=True)
            packed = Path(folder, "weights.safetensors").stat().st_size
        batch = torch.zeros(self.args.batch, 1, 28, 28)
        found: dict[str, object] = {
            "accuracy": evaluate(plain, self.data.test, threads=1).accuracy,
            "sparsity": sc.mask.report(plain).sparsity,
            "packed_bytes": packed,
            "dense_ms": sc.latency(plain, batch).median_ms,
            "csr_ms": None,
            "cut_ms": None,
            "cut_params": None,
        }
        with contextlib.suppress(RequestError):  # nothing is sparse enough
            found["csr_ms"] = sc.latency(sc.mask.use_sparse_kernels(plain, above=0.5), batch).median_ms
        with contextlib.suppress(RequestError):  # no channel is dead
            cut = sc.plan_from_masks(plain, EXAMPLE).apply(plain)
            found["cut_ms"] = sc.latency(cut, batch).median_ms
            found["cut_params"] = sum(parameter.numel() for parameter in cut.parameters())
        return found


def one_shot(bench: Bench, start: nn.Module, dense: nn.Module, sparsity: float) -> nn.Module:
    """Mask the trained network, then train on."""
    model = copy.deepcopy(dense)
    sc.mask.prune(model, "l1", scope="global", sparsity=sparsity)
    return bench.train(model, bench.args.epochs, first_epoch=1 + bench.args.epochs)


def agp(bench: Bench, start: nn.Module, dense: nn.Module, sparsity: float) -> nn.Module:
    """Mask the trained network little by little while it trains on."""

    def make(model: nn.Module, optimizer: torch.optim.Optimizer, total: int) -> sc.mask.Gradual:
        return sc.mask.Gradual(
            model, sparsity=sparsity, end=total * 3 // 4, every=10, scope="global", optimizer=optimizer
        )

    return bench.train(copy.deepcopy(dense), bench.args.epochs, make, first_epoch=1 + bench.args.epochs)


def lottery(bench: Bench, start: nn.Module, dense: nn.Module, sparsity: float) -> nn.Module:
    """Rewind to the initial weights; the dense network is the first round's training."""
    model, origin, trained = copy.deepcopy(start), sc.mask.Snapshot(start), sc.mask.Snapshot(dense)
    rounds = bench.args.rounds
    calls = iter(range(rounds))

    def train(ticket: nn.Module) -> None:
        if next(calls) == 0:
            trained.rewind(ticket)
        else:
            bench.train(ticket, bench.args.epochs)

    sc.mask.find_ticket(model, train, sparsity=sparsity, rounds=rounds, snapshot=origin, scope="global")
    return bench.train(model, bench.args.epochs)


def channels(bench: Bench, start: nn.Module, dense: nn.Module, sparsity: float) -> nn.Module:
    """Mask whole channels with all that belongs to them (bias, batch norm), then train on."""
    model = copy.deepcopy(dense)
    plan = sc.plan(model, EXAMPLE, ratio=1 - (1 - sparsity) ** 0.5, scope="local")
    masks = {}
    for name, parameter in model.named_parameters():
        keep = torch.ones_like(parameter)
        for dim, kept in enumerate(plan.masks(name)):
            keep.index_fill_(dim, torch.from_numpy((~kept).nonzero()[0]), 0)
        masks[name] = keep
    for name in masks:
        sc.mask.prune(model, "custom", masks=masks, select=name)
    return bench.train(model, bench.args.epochs, first_epoch=1 + bench.args.epochs)


STRATEGIES = {"one-shot": one_shot, "agp": agp, "lottery": lottery, "channels": channels}


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | strategy | sparsity % | accuracy % | packed bytes | masked ms | CSR ms | cut ms | "
        "parameters after the cut |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines += [
        f"| {row['network']} | {row['strategy']} | {100 * row['sparsity']:.1f} | {100 * row['accuracy']:.2f} "
        f"| {row['packed_bytes']:,} | {row['dense_ms']:.2f} | {shown(row['csr_ms'], '.2f')} "
        f"| {shown(row['cut_ms'], '.2f')} | {shown(row['cut_params'], ',')} |"
        for row in rows
        if "accuracy" in row
    ]
    return "\n".join(lines)


def break_even_rows(bench: Bench) -> None:
    """From which sparsity on a CSR linear layer is faster, on this machine."""
    for size, batch in ((128, 1), (128, 64), (1024, 1), (1024, 64)):
        if not bench.has(break_even=size, batch=batch):
            found = sc.mask.break_even(size, size, batch)
            bench.add(break_even=size, batch=batch, sparsity=found)


def main() -> None:
    """Run what is asked and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["lenet", "vgg11"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--epochs", type=int, default=3, help="of the dense training, and of each after it")
    parser.add_argument("--train", type=int, default=0, help="images of an epoch; 0 for all")
    parser.add_argument("--rounds", type=int, default=1, help="of the lottery")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=64, help="images of the timed batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/masks.json"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bench = Bench(args, load("fashion-mnist", data_dir=args.data_dir))
    break_even_rows(bench)
    for network in args.networks:
        torch.manual_seed(args.seed)
        start = build(network)
        key = {"network": network, "seed": args.seed, "epochs": args.epochs, "train": args.train}
        wanted = [(name, at) for name in args.strategies for at in args.sparsities]
        if bench.has(strategy="dense", **key) and all(
            bench.has(strategy=name, asked=at, **key) for name, at in wanted
        ):
            continue
        dense = bench.train(copy.deepcopy(start), args.epochs)
        if not bench.has(strategy="dense", **key):
            bench.add(strategy="dense", **key, **bench.measure(dense))
            longer = bench.train(copy.deepcopy(dense), args.epochs, first_epoch=1 + args.epochs)
            bench.add(strategy="dense, trained on", **key, **bench.measure(longer))
        for name, sparsity in wanted:
            if not bench.has(strategy=name, asked=sparsity, **key):
                begin = time.perf_counter()
                model = STRATEGIES[name](bench, start, dense, sparsity)
                seconds = time.perf_counter() - begin
                bench.add(
                    strategy=name, asked=sparsity, seconds=round(seconds, 1), **key, **bench.measure(model)
                )
    print(table(bench.rows))
    print(f"wrote {args.json}")


if __name__ == "__main__":
    main()
