"""`secateur darknet finetune`: train a network on that was pruned."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import CfgWord, DataWord, DataWords, Format, Images, Size, Weights, open_network
from secateur.cli.detectors import Training, run_training
from secateur.cli.options import AsJson, Device, Save, Seed, Threads, require_other_folder
from secateur.domains.darknet.fit import Teaching
from secateur.domains.darknet.layers import input_place


@verbs("finetune")
def finetune(
    cfg: CfgWord,
    save: Save,
    data: DataWord = "digits",
    format: Format = "yolo",
    images: Images = "1000,250",
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times that the training images are gone through.")] = 10,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Instead of the cfg's batch.")] = None,
    size: Size = None,
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Change the input size every ten batches.")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="At the start; half of the cfg's if absent.")] = None,
    ema: Annotated[float, typer.Option(help="Decay of a moving average of the weights; 0 for none.")] = 0.0,
    teacher: Annotated[
        str | None, typer.Option(help="Network to learn from: a cfg, or a folder of cfg and weights.")
    ] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="The teacher's .weights.")] = None,
    distillation: Annotated[float, typer.Option(help="Weight of the distance to the teacher.")] = 1.0,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last complete epoch.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a run that is already in --save.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a pruned network on, without warm-up and along half a cosine; with --teacher, distil.

    Example: secateur darknet finetune runs/pruned --epochs 4 --teacher runs/dense --save runs/tuned
    """
    require_other_folder(cfg, save)
    model = open_network(cfg, weights, device)
    settings = {
        "epochs": epochs,
        "lr": lr if lr is not None else input_place(model.config).number("learning_rate", 0.001) / 2,
        "policy": "cosine",
        "burn_in": 0.0,
        "ema": ema,
        "distillation": distillation,
        "precision": precision,
        "resume": resume,
        "overwrite": overwrite,
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    teaching = Teaching(teacher=open_network(teacher, teacher_weights, device) if teacher else None)
    words = DataWords(data, format, images, seed)
    run_training(
        Training(model, words, save, batch_size, size, multi_scale, workers, settings, teaching),
        as_json=as_json,
    )
