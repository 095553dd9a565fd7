"""`secateur slim`: network slimming from end to end."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    DataDir,
    DataName,
    Device,
    Download,
    ModelArguments,
    ModelWord,
    Save,
    Seed,
    Threads,
    data_arguments,
    load_data,
    model_arguments,
)
from secateur.cli.slimming import run_slimming
from secateur.domains.classification.slimming import SlimConfig
from secateur.sources import open_model
from secateur.train import FitConfig


@commands("slim")
def slim(
    model: ModelWord,
    save: Save,
    ratio: Annotated[float, typer.Option(help="Share of channels to remove in all.")] = 0.7,
    s: Annotated[float, typer.Option("--s", min=0.0, help="Strength of the L1 penalty.")] = 1e-4,
    passes: Annotated[int, typer.Option(help="Rounds of sparse training, pruning and fine-tuning.")] = 1,
    data: DataName = "digits",
    arg: ModelArguments = None,
    epochs: Annotated[int, typer.Option(help="Epochs of the dense and the sparse training.")] = 160,
    finetune_epochs: Annotated[int, typer.Option(help="Epochs after the cut.")] = 40,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.1,
    finetune_lr: Annotated[float, typer.Option(help="Learning rate after the cut.")] = 0.02,
    schedule: Annotated[str, typer.Option(help="step or cosine.")] = "step",
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    min_keep: Annotated[float, typer.Option(help="Share of each group that always stays.")] = 0.1,
    round_to: Annotated[int, typer.Option(help="Round kept counts up to a multiple of this.")] = 1,
    data_dir: DataDir = None,
    download: Download = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train dense and sparse, prune, prove, fine-tune and report, in one or several passes.

    Example: secateur slim zoo:vgg11 --data fashion-mnist --arg width=0.25 --epochs 3
    --s 3e-3 --ratio 0.5 --save runs/slim
    """
    parts = load_data(data, data_dir, download, seed)
    torch.manual_seed(seed)  # fresh weights are drawn
    opened = open_model(model, data_arguments(parts, model, model_arguments(arg)))
    common = {"batch_size": batch_size, "seed": seed, "device": device, "threads": threads}
    config = SlimConfig(
        dense=FitConfig(epochs=epochs, lr=lr, schedule=schedule, **common),  # type: ignore[arg-type]
        sparse=FitConfig(epochs=epochs, lr=lr, schedule=schedule, keep="last", **common),  # type: ignore[arg-type]
        finetune=FitConfig(epochs=finetune_epochs, lr=finetune_lr, schedule="cosine", **common),  # type: ignore[arg-type]
        strength=s,
        ratio=ratio,
        passes=passes,
        min_keep=min_keep,
        round_to=round_to,
        save=Path(save),
    )
    run_slimming(opened, parts, config, title=f"{model} slimmed", as_json=as_json)
