"""Which criterion keeps the most accuracy at a given cost, before and after recovery and one epoch?

VGG-11 at width 1/4, ResNet-20 and a small vision transformer on Fashion-MNIST, trained once for each seed and
cached. Every criterion of the registry, and those of Torch-Pruning beside them, cut each model to the same
MACs: accuracy on the test images right after the cut; after recovery (no labels, no training; ours only);
after one epoch of the same fine-tuning from the cut (all methods) and from the recovered model (ours).

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --data-dir FOLDER            # hours; resumes
    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --page                       # the page only
    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --data digits --models vgg11 --criteria l2,taylor \
        --seeds 1 --epochs 2 --removed 0.5 --out smoke.json --to smoke.md        # under a minute

With `--no-tune --images 2048 --criteria l2 --peers "" --out ... --to ...` another page tells what more images
bring to recovery; it takes minutes once the networks are cached.
"""

import argparse
import json
import shlex
import sys
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accuracy_runs.methods import PEERS, Batches, Method, ours, peer
from accuracy_runs.networks import LONGER, RATES, limited, make, some, trained
from accuracy_runs.page import write_page
from torch import Tensor, nn

from secateur.domains.classification import Images, Splits, load
from secateur.domains.classification.images import labelled
from secateur.score.criterion import criteria
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write

TUNED = {"cut": "one_epoch", "recovered": "recovered_one_epoch"}
RATE = 0.01
COMPUTE = Path("benchmarks/results/accuracy-compute.json")


class Results:
    """The result file: settings, and a row for each cell.

    A cell that failed is tried again by the next run.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            known = json.loads(path.read_text())
            differing = {
                name: (known["settings"].get(name), value)
                for name, value in settings.items()
                if name != "command" and known["settings"].get(name) != value
            }
            if differing:
                sys.exit(f"{path} has other settings (there, here): {differing}; name another --out")
            self.rows = known["rows"]

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a cell was measured."""
        return any("failed" not in row and key.items() <= row.items() for row in self.rows)

    def add(self, key: dict[str, Any], found: dict[str, Any]) -> None:
        """Write a cell down."""
        self.rows = [row for row in self.rows if not key.items() <= row.items()]
        self.rows.append(key | found)
        content = {"settings": self.settings, "rows": self.rows}
        atomic_write(self.path, (json.dumps(content, indent=1) + "\n").encode())
        print(self.rows[-1], flush=True)


def measure(asked: argparse.Namespace) -> None:
    """Fill the missing cells, one after the other."""
    data = load(asked.data, data_dir=asked.data_dir, download=asked.download)
    data = replace(data, test=some(data.test, asked.test))
    to_train, to_tune = limited(data, asked.train), limited(data, asked.tune)
    to_tune = replace(to_tune, validation=some(data.validation, 256))  # looked at, but nothing hangs on it
    results = Results(asked.out, settings_of(asked, to_train, to_tune))
    example = torch.zeros(1, data.spec.in_channels, data.spec.image_size, data.spec.image_size)
    methods: dict[str, Method] = {name: ours(name, asked.steps) for name in asked.criteria}
    methods |= {name: peer(*PEERS[name]) for name in asked.peers}
    for seed in range(asked.seeds):
        for name in asked.models:
            model = trained(name, seed, to_train, asked.epochs, asked.cache)
            dense = evaluate(model, data.test, threads=1).accuracy
            batches = labelled(to_train.train, asked.images, seed)
            for removed in asked.removed:
                for method, run in methods.items():
                    key = {"model": name, "seed": seed, "removed": removed, "method": method}
                    if not results.has(key):
                        tuning = None if asked.no_tune else to_tune
                        cell = run_cell(run, model, example, 1 - removed, batches, data.test, tuning, seed)
                        results.add(key, {"dense": dense, **cell})


def run_cell(
    run: Method,
    model: nn.Module,
    example: Tensor,
    left: float,
    batches: Batches,
    test: Images,
    tuning: Splits | None,
    seed: int,
) -> dict[str, Any]:
    """One method on one model: accuracies by stage, or why there are none."""
    start = time.process_time()
    try:
        stages = list(run(model, example, left, batches, seed))
    except Exception as error:  # noqa: BLE001 - a method that cannot do a model is a cell of the table
        return {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    row: dict[str, Any] = {"method_seconds": time.process_time() - start}
    config = FitConfig(epochs=1, lr=RATE, schedule="cosine", seed=seed, threads=1, quiet=True, keep="last")
    for stage, cut, share in stages:
        row |= {"macs_left": share, stage: evaluate(cut, test, threads=1).accuracy}
        if tuning is not None:
            tuned = fit(cut, tuning, config).model
            row[TUNED[stage]] = evaluate(tuned, test, threads=1).accuracy
    return row


def compute(asked: argparse.Namespace) -> None:
    """Write down what recovery and the epoch cost, in CPU seconds, with half of the MACs removed."""
    data = load(asked.data, data_dir=asked.data_dir, download=asked.download)
    to_tune = replace(limited(data, asked.tune), validation=some(data.validation, 256))
    example = torch.zeros(1, data.spec.in_channels, data.spec.image_size, data.spec.image_size)
    batches = labelled(data.train, asked.images, 0)
    found: dict[str, Any] = {"images": asked.images, "tune_images": len(to_tune.train), "models": {}}
    for name in asked.models:
        model = make(name, data).eval()  # what it costs does not depend on the weights
        start = time.process_time()
        stages = ours("l2", asked.steps)(model, example, 0.5, batches, 0)
        _, cut, _ = next(stages)
        after_cut = time.process_time()
        next(stages)
        recovered = time.process_time()
        config = FitConfig(epochs=1, lr=RATE, schedule="cosine", threads=1, quiet=True, keep="last")
        fit(cut, to_tune, config)
        spent = {
            "cut": after_cut - start,
            "recovery": recovered - after_cut,
            "epoch": time.process_time() - recovered,
        }
        found["models"][name] = {key: round(value, 1) for key, value in spent.items()}
        print(name, found["models"][name], flush=True)
    atomic_write(COMPUTE, (json.dumps(found, indent=1) + "\n").encode())


def settings_of(asked: argparse.Namespace, to_train: Splits, to_tune: Splits) -> dict[str, Any]:
    """What every cell of a result file has in common."""
    return {
        "data": asked.data,
        "epochs": asked.epochs,
        "rates": RATES,
        "longer": LONGER,
        "train_images": len(to_train.train),
        "tune_images": 0 if asked.no_tune else len(to_tune.train),
        "test_images": len(to_train.test),
        "tune_rate": RATE,
        "images": asked.images,
        "steps": asked.steps,
        "torch": version("torch").partition("+")[0],
        "torch_pruning": version("torch-pruning"),
        "command": shlex.join(["python", *sys.argv]),
    }


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
    parser.add_argument("--models", type=words, default=list(RATES))
    parser.add_argument("--criteria", type=words, default=list(criteria))
    parser.add_argument("--peers", type=words, default=list(PEERS))
    parser.add_argument("--removed", type=lambda text: list(map(float, words(text))), default=[0.3, 0.5, 0.7])
    parser.add_argument("--steps", type=words, default=["absorb", "refit"], help="of recovery")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=512, help="for criteria and recovery")
    parser.add_argument("--train", type=int, default=0, help="training images of an epoch; 0: all")
    parser.add_argument("--tune", type=int, default=0, help="images of the epoch of fine-tuning; 0: all")
    parser.add_argument("--no-tune", action="store_true", help="stop after recovery")
    parser.add_argument("--test", type=int, default=0, help="test images; 0: all")
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    parser.add_argument("--to", type=Path, default=Path("docs/benchmarks/accuracy.md"))
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--compute", action="store_true", help="measure what recovery and an epoch cost")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch_pruning")
    if asked.compute:
        compute(asked)
    elif not asked.page:
        measure(asked)
    known = json.loads(asked.out.read_text())
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(asked.to, write_page(known, json.loads(COMPUTE.read_text()), asked.out.as_posix()).encode())
    print(f"wrote {asked.to}")


if __name__ == "__main__":
    main()
