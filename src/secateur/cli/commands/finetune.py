"""`secateur finetune`: train a pruned model on, from a teacher, after a recovery, or as a baseline."""

from typing import Annotated

import typer

from secateur.cli.app import commands
from secateur.cli.finetuning import Teaching, listed, recovered, scratch
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
from secateur.errors import RequestError
from secateur.sources import open_model
from secateur.train import evaluate as evaluate_model
from secateur.train import last_folder


@commands("finetune")
def finetune(
    model: ModelWord,
    save: Save,
    data: DataName = "digits",
    epochs: Annotated[int, typer.Option(help="Times that the training images are gone through.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.02,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    schedule: Annotated[str, typer.Option(help="step (tenfold cut at 50 % and 75 %) or cosine.")] = "cosine",
    teacher: Annotated[
        str | None,
        typer.Option(help="Learn from this model too, the dense one: a folder that secateur saved."),
    ] = None,
    teacher_weight: Annotated[
        float,
        typer.Option(help="Share of the teacher's logits in the loss, 0 to 1; the labels have the rest."),
    ] = 0.9,
    temperature: Annotated[
        float | None, typer.Option(help="Softens the logits of both before they compare; 4 of itself.")
    ] = None,
    teacher_features: Annotated[
        list[str] | None,
        typer.Option(help="Layers whose kept channels follow the teacher's, 'feature.*'; may be repeated."),
    ] = None,
    feature_weight: Annotated[float, typer.Option(help="Weight of the features in the loss.")] = 1.0,
    recover: Annotated[
        list[str] | None,
        typer.Option(
            help="Recover before training, by --teacher and training images: absorb, refit, batch-norm."
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many training images --recover draws.")] = 1024,
    from_scratch: Annotated[
        str | None,
        typer.Option(
            help="Baseline with fresh weights: for --epochs (epochs), or for the MACs that the dense network "
            "takes in --epochs (compute)."
        ),
    ] = None,
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

    With --teacher it learns from the network before the cut, with --from-scratch it is the honest baseline:
    the pruned architecture that never knew the pruned weights.

    Example: secateur finetune runs/pruned --data digits --epochs 10 --teacher runs/sparse --save runs/tuned
    """
    require_other_folder(model, save)
    steps = listed(recover)
    if from_scratch is not None and steps:
        raise RequestError(
            "--from-scratch and --recover were both given",
            ["fresh weights have nothing to recover"],
            "choose one of them",
        )
    if teacher is None and temperature is not None:
        raise RequestError("--temperature was given without a teacher", do="pass --teacher FOLDER")
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
    opened = open_model(model)
    teaching = Teaching(
        teacher,
        teacher_weight,
        4.0 if temperature is None else temperature,
        tuple(teacher_features or ()),
        feature_weight,
    )
    dense = teaching.open()
    distillation = teaching.distillation(opened, dense)
    told: dict[str, object] = {}
    if from_scratch is not None:
        opened, settings, told = scratch(opened, parts, from_scratch, settings)
    elif steps and not (resume and last_folder(save) is not None):  # a run that goes on is past it
        opened, told = recovered(opened, dense, parts, steps, images, seed)
    before = None
    if from_scratch is None and not resume:
        before = evaluate_model(opened.model, parts.validation, device=device, threads=threads).accuracy
    session = Session(opened, parts, settings, distillation=distillation, told=told, before=before)
    run_training(session, as_json=as_json)
