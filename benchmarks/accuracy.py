"""Which criterion keeps the most accuracy at a given cost, before and after recovery and one epoch?

VGG-11 at width 1/4, ResNet-20 and a small vision transformer on Fashion-MNIST, trained once for each seed and
cached. Every criterion of the registry, and those of Torch-Pruning beside them, cut each model to the same
MACs: accuracy on the test images right after the cut, after recovery (`absorb`, `refit`; no labels, no
training; ours only), and after one epoch of the same fine-tuning, ours from the recovered model.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --data-dir FOLDER            # hours; resumes
    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --data digits --models vgg11 --criteria l2,taylor \
        --seeds 1 --epochs 2 --removed 0.5 --out smoke.json                      # under a minute
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

import secateur as sc
from secateur.domains.classification import Splits, load
from secateur.domains.classification.images import labelled
from secateur.score.criterion import criteria
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.zoo import models as zoo

Batches = list[tuple[Tensor, Tensor]]


class Transformer(nn.Module):
    """A vision transformer of 4 layers, 4 heads and width 64; grey images are repeated to three channels."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.inner = VisionTransformer(size, size // 4, 4, 4, 64, 128, num_classes=classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        return self.inner(x.expand(-1, 3, -1, -1))


def make(name: str, data: Splits) -> nn.Module:
    """A fresh network for a data set."""
    spec = data.spec
    if name in zoo:
        return zoo[name](
            width=0.25 if name == "vgg11" else 1.0,
            in_channels=spec.in_channels,
            num_classes=spec.num_classes,
            image_size=spec.image_size,
        )
    return Transformer(spec.image_size, spec.num_classes)


def trained(name: str, seed: int, data: Splits, asked: argparse.Namespace) -> nn.Module:
    """The trained network, from the cache if it is there."""
    folder = asked.cache / f"{data.spec.name}-{name}-{asked.epochs}-epochs-seed-{seed}"
    torch.manual_seed(seed)
    model = make(name, data)
    if (folder / "plan.json").exists():
        return sc.load(folder, model)
    rate = 0.01 if name == "vit" else 0.05
    config = FitConfig(epochs=asked.epochs, lr=rate, schedule="cosine", seed=seed, threads=1, quiet=True)
    model = fit(model, data, config).model
    sc.save(model, folder)
    return model


def ours(name: str) -> Callable[..., Iterator[tuple[str, nn.Module, float]]]:
    """Cut by a criterion of the registry; then recover."""

    def run(
        model: nn.Module, example: Tensor, left: float, batches: Batches, seed: int
    ) -> Iterator[tuple[str, nn.Module, float]]:
        result = sc.prune(model, example, macs=left, criterion=name, data=batches, seed=seed)
        share = result.after.macs / result.before.macs
        yield "cut", result.model, share
        yield "recovered", sc.recover(result, batches, ["absorb", "refit"]).model, share

    return run


def peer(importance: Callable[[], Any]) -> Callable[..., Iterator[tuple[str, nn.Module, float]]]:
    """Cut by Torch-Pruning at once, at the ratio whose MACs, as secateur counts them, come next below."""

    def run(
        model: nn.Module, example: Tensor, left: float, batches: Batches, seed: int
    ) -> Iterator[tuple[str, nn.Module, float]]:
        whole = sc.measure(model, example).macs
        low, high = 0.0, 0.95
        best: tuple[nn.Module, float] | None = None
        for _ in range(8):
            ratio = (low + high) / 2
            torch.manual_seed(seed)
            pruned = _cut_by_peer(copy.deepcopy(model).eval(), example, ratio, importance(), batches)
            share = sc.measure(pruned, example).macs / whole
            if share <= left:
                best, high = (pruned, share), ratio
            else:
                low = ratio
        if best is None:
            raise RuntimeError(f"no ratio up to 0.95 leaves {left:.0%} of the MACs")
        yield "cut", *best

    return run


def _cut_by_peer(
    pruned: nn.Module, example: Tensor, ratio: float, importance: Any, batches: Batches
) -> nn.Module:
    modules = list(pruned.modules())
    heads = {module: module.num_heads for module in modules if isinstance(module, nn.MultiheadAttention)}
    last = [module for module in modules if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.MetaPruner(
        pruned,
        example,
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        ignored_layers=[last],
        num_heads=heads,
        prune_num_heads=bool(heads),
        head_pruning_ratio=ratio,
    )
    for images, labels in batches:
        (F.cross_entropy(pruned(images), labels) / len(batches)).backward()
    pruner.step()
    pruned.zero_grad()
    return pruned


PEERS = {
    "torch-pruning l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "torch-pruning l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "torch-pruning lamp": lambda: tp.importance.LAMPImportance(),
    "torch-pruning bn-scale": lambda: tp.importance.BNScaleImportance(),
    "torch-pruning fpgm": lambda: tp.importance.FPGMImportance(),
    "torch-pruning taylor": lambda: tp.importance.GroupTaylorImportance(),
    "torch-pruning random": lambda: tp.importance.RandomImportance(),
}


def measure(asked: argparse.Namespace) -> None:
    """Fill the missing rows of the result file, one after the other."""
    data = load(asked.data, data_dir=asked.data_dir, download=asked.download)
    example = torch.zeros(1, data.spec.in_channels, data.spec.image_size, data.spec.image_size)
    methods = {name: ours(name) for name in asked.criteria} | {
        name: peer(PEERS[name]) for name in asked.peers
    }
    found: list[dict[str, Any]] = json.loads(asked.out.read_text()) if asked.out.exists() else []
    done = {(row["model"], row["seed"], row["removed"], row["method"]) for row in found}
    for name in asked.models:
        for seed in range(asked.seeds):
            model = trained(name, seed, data, asked)
            dense = evaluate(model, data.test, threads=1).accuracy
            batches = labelled(data.train, asked.images, seed)
            for removed in asked.removed:
                for method, run in methods.items():
                    if (name, seed, removed, method) in done:
                        continue
                    row = {"model": name, "seed": seed, "removed": removed, "method": method, "dense": dense}
                    row |= _row(run, model, example, 1 - removed, batches, data, seed)
                    found.append(row)
                    atomic_write(asked.out, (json.dumps(found, indent=1) + "\n").encode())
                    print(row, flush=True)


def _row(
    run: Callable[..., Iterator[tuple[str, nn.Module, float]]],
    model: nn.Module,
    example: Tensor,
    left: float,
    batches: Batches,
    data: Splits,
    seed: int,
) -> dict[str, Any]:
    """One method on one model: accuracies by stage, or why there are none."""
    start = time.process_time()
    row: dict[str, Any] = {}
    last = model
    try:
        for stage, last, share in run(model, example, left, batches, seed):
            row |= {stage: evaluate(last, data.test, threads=1).accuracy, "macs_left": share}
    except Exception as error:  # noqa: BLE001 - a method that cannot do a model is a cell of the table
        return {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    row["method_seconds"] = time.process_time() - start
    config = FitConfig(epochs=1, lr=0.01, schedule="cosine", seed=seed, threads=1, quiet=True, keep="last")
    row["one_epoch"] = evaluate(fit(last, data, config).model, data.test, threads=1).accuracy
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds: one line for each model, share and method."""
    lines = ["| model | MACs removed | method | cut | recovered | one epoch |", "|---|---|---|---|---|---|"]
    keys = sorted({(row["model"], row["removed"], row["method"]) for row in rows})
    for key in keys:
        cells = []
        for stage in ("cut", "recovered", "one_epoch"):
            held = [
                row[stage]
                for row in rows
                if (row["model"], row["removed"], row["method"]) == key and stage in row
            ]
            cells.append(f"{sum(held) / len(held):.1%}" if held else "-")
        lines.append(f"| {key[0]} | {key[1]:.0%} | {key[2]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def words(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [word for word in text.split(",") if word]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--models", type=words, default=["vgg11", "resnet20", "vit"])
    parser.add_argument("--criteria", type=words, default=list(criteria))
    parser.add_argument("--peers", type=words, default=list(PEERS))
    parser.add_argument("--removed", type=lambda text: list(map(float, words(text))), default=[0.3, 0.5, 0.7])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=512, help="Images for criteria and recovery.")
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch_pruning")
    measure(asked)
    print(table(json.loads(asked.out.read_text())))


if __name__ == "__main__":
    main()
