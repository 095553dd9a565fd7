"""`secateur train`: train a classifier, plainly or sparse."""

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
    require_other_folder,
)
from secateur.cli.training import Session, Sparsity, run_training
from secateur.penalise import penalties
from secateur.sources import open_model

_STRENGTHS = ", ".join(f"{kind.default_strength:g} for {name}" for name, kind in penalties.items())


@commands("train")
def train(
    model: ModelWord,
    save: Save,
    data: DataName = "digits",
    arg: ModelArguments = None,
    epochs: Annotated[int, typer.Option(help="Times that the training images are gone through.")] = 160,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.1,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="L2 decay of all parameters.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    schedule: Annotated[str, typer.Option(help="step (tenfold cut at 50 % and 75 %) or cosine.")] = "step",
    sparsity: Annotated[str, typer.Option(help=f"none, or a penalty: {', '.join(penalties)}.")] = "none",
    s: Annotated[
        float | None,
        typer.Option("--s", min=0.0, help=f"Strength of the penalty; of itself {_STRENGTHS}."),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the channels that growing-l2 pushes out.")
    ] = None,
    criterion: Annotated[str, typer.Option(help="What chooses those channels.")] = "l1",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = "32-true",
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 0,
    pin_memory: Annotated[bool, typer.Option(help="Page-locked batches, for a GPU.")] = False,
    log_interval: Annotated[int, typer.Option(help="Steps between lines within an epoch; 0 for none.")] = 0,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's files.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on after the last complete epoch.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete a run that is already in --save.")] = False,
    data_dir: DataDir = None,
    download: Download = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a classifier; with --sparsity its unneeded channels are driven to zero.

    bn-l1 pulls the batch-norm scales, group-lasso whole channels with all that goes along, growing-l2 the
    share of channels that --ratio names, ever harder.

    Example: secateur train zoo:vgg11 --data digits --arg width=0.25 --epochs 30 --lr 0.03
    --schedule cosine --sparsity bn-l1 --s 0.015 --save runs/sparse
    """
    require_other_folder(model, save)
    parts = load_data(data, data_dir, download, seed)
    torch.manual_seed(seed)  # fresh weights are drawn
    opened = open_model(model, data_arguments(parts, model, model_arguments(arg)))
    settings = {
        "epochs": epochs,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "schedule": schedule,
        "seed": seed,
        "device": device,
        "precision": precision,
        "workers": workers,
        "pin_memory": pin_memory,
        "log_interval": log_interval,
        "threads": threads,
        "save": save,
        "resume": resume,
        "overwrite": overwrite,
        "tensorboard": tensorboard,
    }
    penalty = Sparsity(sparsity, s, ratio, criterion)
    run_training(Session(opened, parts, settings, penalty), as_json=as_json)
