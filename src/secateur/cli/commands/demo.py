"""`secateur demo`: the main job on real data that ships with a dependency."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from secateur.cli.app import commands
from secateur.cli.options import AsJson, Device, Seed, Threads, data_arguments, load_data
from secateur.cli.slimming import run_slimming
from secateur.domains.classification.slimming import SlimConfig
from secateur.sources import open_model
from secateur.train import FitConfig

_RECIPE = {"batch_size": 32, "schedule": "cosine", "lr": 0.03}


@commands("demo")
def demo(
    save: Annotated[Path, typer.Option("--save", help="Folder to write to.")] = Path("demo"),
    ratio: Annotated[float, typer.Option(help="Share of channels to remove in all.")] = 0.7,
    passes: Annotated[int, typer.Option(help="Rounds of sparse training, pruning and fine-tuning.")] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Slim a VGG-11 on scikit-learn's handwritten digits: train, prune 70 %, prove, fine-tune, report.

    Example: secateur demo --save demo
    """
    parts = load_data("digits", None, download=False, seed=seed)
    arguments = data_arguments(parts, "zoo:vgg11", {"width": 0.25})
    common = {**_RECIPE, "seed": seed, "device": device, "threads": threads}
    config = SlimConfig(
        dense=FitConfig(epochs=20, **common),  # type: ignore[arg-type]
        sparse=FitConfig(epochs=30, keep="last", **common),  # type: ignore[arg-type]
        finetune=FitConfig(epochs=10, **{**common, "lr": 0.01}),  # type: ignore[arg-type]
        strength=0.015,
        ratio=ratio,
        passes=passes,
        save=save,
    )
    torch.manual_seed(seed)  # fresh weights are drawn
    opened = open_model("zoo:vgg11", arguments)
    run_slimming(opened, parts, config, title="VGG-11 on handwritten digits", as_json=as_json)
