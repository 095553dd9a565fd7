"""`secateur finetune`: train a pruned model on, the "refine" step of network slimming."""

from typing import Annotated

import typer

from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    DataDir,
    DataName,
    Device,
    Download,
    ModelWord,
    Save,
    Seed,
    Threads,
    load_data,
    require_other_folder,
)
from secateur.cli.training import Session, run_training
from secateur.sources import open_model


@commands("finetune")
def finetune(
    model: ModelWord,
    save: Save,
    data: DataName = "digits",
    epochs: Annotated[int, typer.Option(help="Times that the training images are gone through.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.02,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    schedule: Annotated[str, typer.Option(help="step (tenfold cut at 50 % and 75 %) or cosine.")] = "cosine",
    resume: Annotated[bool, typer.Option(help="Go on after the last complete epoch.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete a run that is already in --save.")] = False,
    data_dir: DataDir = None,
    download: Download = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a saved model on; the result is a saved model too and can be pruned again.

    Example: secateur finetune runs/pruned --data digits --epochs 10 --save runs/tuned
    """
    require_other_folder(model, save)
    parts = load_data(data, data_dir, download, seed)
    settings = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "schedule": schedule,
        "seed": seed,
        "device": device,
        "threads": threads,
        "save": save,
        "resume": resume,
        "overwrite": overwrite,
    }
    run_training(Session(open_model(model), parts, settings), as_json=as_json)
