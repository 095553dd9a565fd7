"""Who is more accurate at the same MACs after the same CPU seconds, choosing and tuning together?

VGG-11 at width 1/4 and ResNet-20 as in `accuracy.py`, a ResNet-56 at half width, and the vision transformer
of `accuracy.py` trained to convergence, on Fashion-MNIST. Two budgets for each cell:

* *no training of ours*: the seconds that our default takes, `sc.prune(macs=..., data=...)` and the recovery
  that it names. A peer chooses and spends the rest on fine-tuning.
* *with training*: those of our default and one epoch of `--tune` images from there. A peer may see as many
  more images as its choice was cheaper.

Everybody tunes by one cosine epoch over as many images as fit into what is left (by the speed of the cut
network, measured on a few steps; several rounds over the images where there are fewer), by the optimizer that
the network was trained by, at each of two rates, keeping the best by 2,000 validation images, the start
included. The other rate is free for all.
Peers are Torch-Pruning's criteria, each driven in four ways: ranked globally and locally, globally in five
steps (each after a look at what the last one left), and globally with widths that are multiples of 8.
Labels are the peers' and the tuning's: ours chooses and recovers without.

    OMP_NUM_THREADS=1 python benchmarks/equal_compute.py --data-dir FOLDER     # resumes
    OMP_NUM_THREADS=1 python benchmarks/equal_compute.py --page                # the page only
"""

import argparse
import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accuracy_runs.methods import PEERS, Batches, Way, cut_by_peer
from accuracy_runs.networks import limited, make, some, trained
from torch import Tensor, nn

import secateur as sc
from secateur.domains.classification import Images, Splits, load
from secateur.domains.classification.images import labelled
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write

RESULTS = Path("benchmarks/results/equal_compute.json")
PAGE = Path("docs/benchmarks/equal-compute.md")
CRITERIA = ("l2", "lamp", "taylor")
WAYS = {
    "global": Way(),
    "local": Way(is_global=False),
    "global, 5 steps": Way(steps=5),
    "global, by eights": Way(round_to=8),
}
RATES = {"adamw": (0.001, 0.0003), "sgd": (0.01, 0.003)}
"""Two for each optimizer; a network is tuned by the one that it was trained by."""
OURS = {
    "secateur": None,
    "secateur, and blocks": ["absorb", "refit", "blocks"],
    "secateur, and distil": ["absorb", "refit", "distil"],
}
"""The steps of the recovery by row; None is what the default names."""

NEAR = 0.02
"""How far from the MACs asked for a peer may end."""


@dataclass(frozen=True)
class Setting:
    """What a cell is measured with.

    Attributes:
        batches: To choose and recover by.
        tune: Images of our epoch.
        test: Images to judge by.
        seed: Of everything that is drawn.
        optimizer: Of all tuning.
    """

    batches: Batches
    tune: int
    test: Images
    seed: int
    optimizer: str

    def config(self, epochs: int, lr: float) -> FitConfig:
        """How a network is tuned."""
        config = FitConfig(epochs, lr, schedule="cosine", seed=self.seed, threads=1, quiet=True, keep="last")
        if self.optimizer == "sgd":
            return config
        return replace(config, optimizer=self.optimizer, kernels_only=True, weight_decay=0.05)


def cpu(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its CPU seconds."""
    start = time.process_time()
    return run(), time.process_time() - start


def network(name: str, seed: int, data: Splits, epochs: int, cache: Path) -> nn.Module:
    """A trained network; the transformer sees all images for 20 epochs of AdamW."""
    if name != "vit":
        return trained(name, seed, limited(data, 20_000), epochs, cache)
    folder = cache / f"{data.spec.name}-vit-adamw-20-epochs-seed-{seed}"
    torch.manual_seed(seed)
    model = make(name, data)
    if not (folder / "plan.json").exists():
        config = FitConfig(20, 1e-3, schedule="cosine", seed=seed, threads=1, quiet=True, optimizer="adamw")
        model = fit(model, data, replace(config, burn_in=0.05, kernels_only=True, weight_decay=0.05)).model
        sc.save(model, folder)
        return model.eval()
    return sc.load(folder, model).eval()


def ours(
    model: nn.Module, example: Tensor, left: float, batches: Batches, steps: list[str] | None
) -> nn.Module:
    """Our default, or with these steps of recovery."""
    images = [one for one, _ in batches]
    return sc.prune(model, example, macs=left, data=images, recover=steps).model


def our_cell(
    model: nn.Module, example: Tensor, left: float, tune: Splits, asked: Setting, steps: list[str] | None
) -> dict[str, Any]:
    """Our row, with budgets of its own."""
    made, spent = cpu(lambda: ours(model, example, left, asked.batches, steps))
    epoch = asked.tune / images_per_second(made, tune, asked)
    return cell(made, spent, (spent, spent + epoch), tune, asked)


def peer(model: nn.Module, example: Tensor, left: float, batches: Batches, name: str, way: Way) -> Any:
    """Torch-Pruning's cut nearest to the MACs; the search for the ratio is not counted, the last cut is."""
    importance, prepare = PEERS[f"torch-pruning {name}"]
    whole = sc.measure(model, example).macs

    def cut(ratio: float) -> nn.Module:
        pruned = copy.deepcopy(model)
        ready = lambda pruner: prepare(pruner, batches)  # noqa: E731
        cut_by_peer(pruned.eval(), example, ratio, importance(), ready, way)
        return pruned

    low, high = 0.0, 0.95
    best, away = 0.0, math.inf
    for _ in range(8):
        ratio = (low + high) / 2
        share = sc.measure(cut(ratio), example).macs / whole
        if abs(share - left) < away:
            best, away = ratio, abs(share - left)
        low, high = (low, ratio) if share <= left else (ratio, high)
    if away > NEAR:
        raise RuntimeError(f"no ratio up to 0.95 comes nearer to the MACs than {away:.0%}")
    return cpu(lambda: cut(best))


def images_per_second(model: nn.Module, data: Splits, asked: Setting) -> float:
    """How fast a network trains, in CPU seconds: of three measurements the least, as noise only adds."""
    few = replace(limited(data, 1_024), validation=some(data.test, 64))
    config = asked.config(1, 1e-6)
    fewer = replace(few, train=some(few.train, 128))
    pairs = [
        (cpu(lambda: fit(model, fewer, config))[1], cpu(lambda: fit(model, few, config))[1]) for _ in range(3)
    ]
    warm, seconds = map(min, zip(*pairs, strict=True))
    return 896 / (seconds - warm)


def tuned(model: nn.Module, data: Splits, count: int, asked: Setting) -> tuple[nn.Module, float]:
    """The best of two rates after so many images, by the validation part, and its rate; 0 is the start."""
    assert data.validation is not None, "the data set has one"
    epochs = max(1, math.ceil(count / len(data.train)))
    part = limited(data, max(64, count // epochs))
    best, rate = model, 0.0
    top = evaluate(model, data.validation, threads=1).accuracy
    for lr in RATES[asked.optimizer] if count >= 64 else ():
        made = fit(model, part, replace(asked.config(epochs, lr), burn_in=0.05)).model
        found = evaluate(made, data.validation, threads=1).accuracy
        if found > top:
            best, top, rate = made, found, lr
    return best, rate


def cell(
    cut: nn.Module, spent: float, budgets: tuple[float, float], data: Splits, asked: Setting
) -> dict[str, Any]:
    """Accuracies of one method on one network for both budgets."""
    speed = images_per_second(cut, data, asked)
    row: dict[str, Any] = {
        "chosen_seconds": round(spent, 2),
        "images_per_second": round(speed),
        "start": evaluate(cut, asked.test, threads=1).accuracy,
    }
    for name, budget in zip(("untrained", "trained"), budgets, strict=True):
        count = max(0, int((budget - spent) * speed))
        model, rate = tuned(cut, data, count, asked)
        row[name] = evaluate(model, asked.test, threads=1).accuracy
        row |= {f"{name}_images": count, f"{name}_rate": rate, f"{name}_budget": round(budget, 2)}
    return row


def measure(asked: argparse.Namespace) -> None:
    """Fill the missing cells."""
    data = load("fashion-mnist", data_dir=asked.data_dir, download=False)
    test = some(data.test, asked.test)
    example = torch.zeros(1, 1, 28, 28)
    known = json.loads(asked.json.read_text()) if asked.json.exists() else {"rows": []}
    rows: list[dict[str, Any]] = known["rows"]
    settings = {
        "command": "python benchmarks/equal_compute.py",
        "images": asked.images,
        "tune": asked.tune,
        "test": len(test),
        "rates": RATES,
        "torch": version("torch").partition("+")[0],
        "torch_pruning": version("torch-pruning"),
    }

    def add(key: dict[str, Any], found: dict[str, Any]) -> None:
        rows.append(key | found)
        atomic_write(asked.json, (json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n").encode())
        print(rows[-1], file=sys.stderr, flush=True)

    def row_of(key: dict[str, Any]) -> dict[str, Any] | None:
        return next((row for row in rows if key.items() <= row.items()), None)

    for seed in range(asked.seeds):
        for name in asked.models:
            model = network(name, seed, data, 5, asked.cache)
            tune = replace(data, validation=some(data.validation or data.test, 2_000))
            batches = labelled(data.train, asked.images, seed)
            setting = Setting(batches, asked.tune, test, seed, "adamw" if name == "vit" else "sgd")
            dense = evaluate(model, test, threads=1).accuracy
            for removed in asked.removed:
                key = {"model": name, "seed": seed, "removed": removed}
                for method, steps in OURS.items():
                    if row_of(key | {"method": method}) is None:
                        found = our_cell(model, example, 1 - removed, tune, setting, steps)
                        add(key | {"method": method}, {"dense": dense, **found})
                first = row_of(key | {"method": "secateur"})
                assert first is not None, "added above"
                budgets = (first["untrained_budget"], first["trained_budget"])
                for method in CRITERIA:
                    for words, way in WAYS.items():
                        one = key | {"method": f"torch-pruning {method}, {words}"}
                        if row_of(one) is not None:
                            continue
                        try:
                            cut, spent = peer(model, example, 1 - removed, batches, method, way)
                            add(one, {"dense": dense, **cell(cut, spent, budgets, tune, setting)})
                        except Exception as error:  # noqa: BLE001 - what a method cannot do is a cell
                            add(one, {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]})


def compared(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each cell and budget: ours beside the best peer, losses first."""
    lines: list[tuple[float, str]] = []
    for key in sorted({(row["model"], row["removed"], row["seed"]) for row in rows}):
        cells = [row for row in rows if (row["model"], row["removed"], row["seed"]) == key]
        us = next(row for row in cells if row["method"] == "secateur")
        peers = [row for row in cells if "secateur" not in row["method"] and "failed" not in row]
        if not peers:
            continue
        for budget in ("untrained", "trained"):
            best = max(peers, key=lambda row: row[budget])
            ahead = 100 * (us[budget] - best[budget])
            below = 100 * (us[budget] - us["dense"])
            words = "no training of ours" if budget == "untrained" else "with training"
            lines.append(
                (
                    ahead,
                    f"| {key[0]} | {key[1]:.0%} | {key[2]} | {words} | {us[f'{budget}_budget']:.1f} | "
                    f"{100 * us['dense']:.2f} | {100 * us[budget]:.2f} | {below:+.2f} | "
                    f"{100 * best[budget]:.2f} | {best['method'].split(' ', 1)[1]} | {len(peers)} | "
                    f"{ahead:+.2f} |",
                )
            )
    return [line for _, line in sorted(lines)]


def page(known: dict[str, Any]) -> str:
    """The table, losses first."""
    settings, rows = known["settings"], known["rows"]
    failed = [
        f"* {row['model']}, {row['removed']:.0%}, {row['method']}: {row['failed']}"
        for row in rows
        if "failed" in row
    ]
    every = [
        f"| {row['model']} | {row['removed']:.0%} | {row['seed']} | {row['method']} | "
        f"{100 * row['start']:.2f} | "
        f"{100 * row['untrained']:.2f} | {row['untrained_images']:,} | {100 * row['trained']:.2f} | "
        f"{row['trained_images']:,} | {row['trained_rate']:g} | {row['chosen_seconds']:.1f} |"
        for row in rows
        if "failed" not in row
    ]
    rates = "; ".join(f"{name} {one:g} and {two:g}" for name, (one, two) in settings["rates"].items())
    methods = dict.fromkeys(row["method"] for row in rows if "secateur" not in row["method"])
    peers = [method.partition(" ")[2] for method in methods]
    head = f"""# Accuracy after equal compute

<!-- Generated by benchmarks/equal_compute.py from {RESULTS.as_posix()}; do not edit. -->

Our default, `sc.prune(model, x, macs=..., data=...)` on {settings["images"]} images without labels,
beside the best of {len(peers)} of Torch-Pruning {settings["torch_pruning"]} ({"; ".join(peers)}).
Everybody has the same CPU seconds: what ours takes to choose and recover a peer may
spend on fine-tuning, and with training ours has an epoch of {settings["tune"]:,} images more and
a peer the rest of the same seconds. Everybody tunes by the optimizer that the network was trained by
(AdamW for the vision transformer) at two rates ({rates}) and keeps the best by 2,000 validation
images, the start included. "of" is how many peers came to the MACs in that cell; each cell was
measured on one machine, a busy one, so that images that fit into the seconds vary by a fifth.
Accuracy in % on {settings["test"]:,} test images; the best peer of each line is chosen by these, in its
favour. Pairs differ by about 0.4 by chance.
Losses first. Behind the refit "secateur, and blocks" learns block by block from the dense network, and
"secateur, and distil" as a whole, without labels (`recover=["absorb", "refit", "distil"]`); their budgets
are their own, and no peer is compared at them."""
    first = (
        "| network | MACs removed | seed | budget | CPU s | dense | ours | to dense "
        "| best peer | which | of | ahead |"
    )
    second = (
        "| network | MACs removed | seed | method | after the cut | no training of ours | images "
        "| with training | images | rate | choosing, CPU s |"
    )
    parts = [
        head,
        "\n".join([first, "|---|--:|--:|---|--:|--:|--:|--:|--:|---|--:|--:|", *compared(rows)]),
        "## All cells",
        "\n".join([second, "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|", *every]),
        *(["Failed:", "\n".join(failed)] if failed else []),
        f"torch {settings['torch']}, one thread.",
        f"    OMP_NUM_THREADS=1 {settings['command']} --data-dir FOLDER",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--models", nargs="+", default=["vgg11", "resnet20", "resnet56", "vit"])
    parser.add_argument("--removed", nargs="+", type=float, default=[0.5, 0.7])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=512, help="for choosing and recovery")
    parser.add_argument("--tune", type=int, default=6_000, help="images of our epoch")
    parser.add_argument("--test", type=int, default=0, help="test images; 0: all")
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="only write the page")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch_pruning")
    torch.set_num_threads(1)
    if not asked.page:
        measure(asked)
    atomic_write(PAGE, page(json.loads(asked.json.read_text())).encode())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
