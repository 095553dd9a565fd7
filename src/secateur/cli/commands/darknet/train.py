"""`secateur darknet train`: train a detector, plainly, sparse or from a teacher."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import (
    CfgWord,
    DataWord,
    DataWords,
    Format,
    Images,
    Size,
    Strategy,
    Weights,
    open_network,
)
from secateur.cli.detectors import Training, run_training
from secateur.cli.options import AsJson, Device, Save, Seed, Threads, require_other_folder, say
from secateur.domains.darknet.fit import Teaching
from secateur.domains.darknet.sparsity import sparsity_for
from secateur.domains.darknet.start import expect_nothing
from secateur.domains.darknet.transfer import transfer as transfer_weights


@verbs("train")
def train(
    cfg: CfgWord,
    save: Save,
    data: DataWord = "digits",
    format: Format = "yolo",
    images: Images = "1000,250",
    weights: Weights = None,
    transfer: Annotated[
        Path | None, typer.Option(help="Start from what fits of this file, such as darknet53.conv.74.")
    ] = None,
    transfer_cfg: Annotated[
        Path | None, typer.Option(help="The cfg of --transfer, if it is another network's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the cfg's max_batches.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Instead of the cfg's batch.")] = None,
    subdivisions: Annotated[int | None, typer.Option(help="Pieces of a batch, to save memory.")] = None,
    size: Size = None,
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Change the input size every ten batches.")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Instead of the cfg's learning_rate.")] = None,
    policy: Annotated[str | None, typer.Option(help="constant, steps, poly or cosine.")] = None,
    burn_in: Annotated[float | None, typer.Option(help="Share of the run in which the rate rises.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Instead of the cfg's.")] = None,
    decay: Annotated[float | None, typer.Option(help="L2 decay of kernels, instead of the cfg's.")] = None,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    nesterov: Annotated[
        bool, typer.Option("--nesterov", help="Nesterov's variant of SGD's momentum.")
    ] = False,
    box_loss: Annotated[
        str | None, typer.Option(help="mse, iou, giou, diou or ciou, instead of the cfg's iou_loss.")
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradients; 0 for no limit.")] = 50.0,
    ema: Annotated[float, typer.Option(help="Decay of a moving average of the weights; 0 for none.")] = 0.0,
    sparsity: Annotated[
        float, typer.Option(min=0.0, help="Pull the scales that --strategy prunes to zero this hard.")
    ] = 0.0,
    sparsity_schedule: Annotated[
        str, typer.Option(help="constant, global-decay or local-decay.")
    ] = "constant",
    strategy: Strategy = "normal",
    teacher: Annotated[
        str | None, typer.Option(help="Network to learn from: a cfg, or a folder of cfg and weights.")
    ] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="The teacher's .weights.")] = None,
    distillation: Annotated[float, typer.Option(help="Weight of the distance to the teacher.")] = 1.0,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 0,
    validate_every: Annotated[int, typer.Option(min=1, help="Epochs between two validations.")] = 1,
    log_interval: Annotated[int, typer.Option(help="Steps between lines within an epoch; 0 for none.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last complete epoch.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a run that is already in --save.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a detector; what the cfg's [net] says holds unless an option says otherwise.

    Example: secateur darknet train digits --data digits --epochs 8 --policy cosine --save runs/dense
    """
    require_other_folder(cfg, save)
    model = open_network(cfg, weights, device, seed=seed, needs_weights=False)
    if weights is None and not Path(cfg).is_dir():
        expect_nothing(model)
    if transfer is not None:
        say(str(transfer_weights(model, transfer, transfer_cfg)))
    settings = {
        "epochs": epochs,
        "subdivisions": subdivisions,
        "lr": lr,
        "policy": policy,
        "burn_in": burn_in,
        "momentum": momentum,
        "decay": decay,
        "optimizer": optimizer,
        "nesterov": nesterov,
        "box_loss": box_loss,
        "clip": clip,
        "ema": ema,
        "distillation": distillation,
        "precision": precision,
        "validate_every": validate_every,
        "log_interval": log_interval,
        # The last weights of sparse training are the sparsest.
        "keep": "last" if sparsity else "best",
        "resume": resume,
        "overwrite": overwrite,
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    teaching = Teaching(
        sparsity_for(model, strategy, sparsity, sparsity_schedule) if sparsity else None,
        open_network(teacher, teacher_weights, device) if teacher else None,
    )
    words = DataWords(data, format, images, seed)
    run_training(
        Training(model, words, save, batch_size, size, multi_scale, workers, settings, teaching),
        as_json=as_json,
    )
