"""How much faster is a sweep that computes the unpruned prefix once than the loop of the course lab?

ResNet-18 at width 1/4, one convolution, K = 1, 2, ... channels zeroed, accuracy and class-wise accuracy on
all test images. The naive loop does for every K what the lab does: load the state dict into a new model, hook
the layer, evaluate once for the accuracy and once for the classes. Accuracies must be identical. The model is
trained for `--epochs` first (0: random weights, whose accuracies say little).

    OMP_NUM_THREADS=1 python benchmarks/sweep.py --data fashion-mnist --data-dir FOLDER
    OMP_NUM_THREADS=1 python benchmarks/sweep.py --data digits --width 0.125 --points 16 --epochs 4  # seconds
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.domains.classification import Images, load
from secateur.domains.classification.images import calibration
from secateur.sweep import channel_sweep
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.zoo import models


def naive(
    arguments: dict[str, object], state: dict[str, Tensor], hooked: str, removed: Tensor, part: Images
) -> tuple[float, tuple[float | None, ...]]:
    """Reload, hook, evaluate twice; returns the accuracy and those of the classes."""
    model = models["resnet18"](**arguments)
    model.load_state_dict(state)
    model.get_submodule(hooked).register_forward_hook(lambda _, __, out: out.index_fill(1, removed, 0))
    return (
        evaluate(model, part, device="cpu").accuracy,
        evaluate(model, part, device="cpu").per_class_accuracy,
    )


def norm_of(layer: str) -> str:
    """The batch norm behind a convolution of a block."""
    return layer.replace("conv", "bn")


def train(model: nn.Module, epochs: int, parts: object) -> nn.Module:
    """Train for some epochs; none leaves the weights random."""
    return fit(model, parts, FitConfig(epochs=epochs, device="cpu", save=None)).model if epochs else model


def main() -> None:
    """Run both and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--layer", default="layer4.1.conv2")
    parser.add_argument("--points", type=int, default=64, help="K = 1 ... points")
    parser.add_argument("--images", type=int, help="the first test images; all if not given")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    torch.manual_seed(0)
    parts = load(words.data, data_dir=words.data_dir)
    spec, test = parts.spec, parts.test
    part = Images(spec, test.pixels[: words.images], test.labels[: words.images])
    arguments = {
        "width": words.width,
        "in_channels": spec.in_channels,
        "num_classes": spec.num_classes,
        "image_size": spec.image_size,
    }
    model = train(models["resnet18"](**arguments), words.epochs, parts).eval()
    scored = calibration(parts.train, 1024)
    start = time.perf_counter()
    counts = range(1, words.points + 1)
    found = channel_sweep(model, words.layer, part, counts, data=scored, device="cpu")
    ours = time.perf_counter() - start
    start = time.perf_counter()
    state = model.state_dict()
    differing = []
    for row in found.rows[1:]:
        removed = torch.tensor(row.removed, dtype=torch.long)
        if naive(arguments, state, norm_of(words.layer), removed, part) != (
            row.accuracy,
            row.per_class_accuracy,
        ):
            differing.append(row.count)
    loop = time.perf_counter() - start
    numbers = {
        "layer": words.layer,
        "points": words.points,
        "images": len(part),
        "threads": torch.get_num_threads(),
        "dense_accuracy": found.dense.accuracy,
        "last_accuracy": found.rows[-1].accuracy,
        "sweep_s": ours,
        "naive_s": loop,
        "times_faster": loop / ours,
        "counts_that_differ": differing,
    }
    text = json.dumps(numbers, indent=1)
    print(text)
    if words.out is not None:
        atomic_write(words.out, text.encode())


if __name__ == "__main__":
    main()
