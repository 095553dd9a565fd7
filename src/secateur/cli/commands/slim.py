"""`secateur slim`: network slimming from end to end."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.flatten import Like, Without
from secateur.cli.options import MachineOptions, ModelOptions, Save
from secateur.cli.slimming import run_slimming
from secateur.cli.terminal import Answer
from secateur.slimming import SlimConfig
from secateur.train import TUNING, FitConfig


@dataclass(frozen=True)
class SlimOptions:
    """What the trainings have not in common.

    Attributes:
        s: Strength of the L1 penalty.
        finetune_epochs: Epochs after the cut.
        finetune_lr: Learning rate after the cut.
    """

    s: Annotated[float, typer.Option(min=0.0)] = 1e-4
    finetune_epochs: int = 40
    finetune_lr: float = 0.02


_BY_STAGES = ("dense", "sparse", "finetune", "strength", "latency_batch", "calibration_images")


def slim(
    model: ModelOptions,
    save: Save,
    slimming: Annotated[dict[str, Any], Like(SlimConfig, *_BY_STAGES, ratio=0.7)],
    stages: SlimOptions,
    config: Annotated[FitConfig, Without("keep", "save", "resume", "overwrite", "tensorboard", epochs=160)],
    data: DataOptions,
    place: MachineOptions,
) -> Answer:
    """Train dense and sparse, prune, prove, fine-tune and report, in one or several passes.

    Example: secateur slim zoo:vgg11 --data fashion-mnist --arg width=0.25 --epochs 3
    --s 3e-3 --ratio 0.5 --save runs/slim
    """
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed)
    tuning = {**TUNING, "lr": stages.finetune_lr, "burn_in": config.burn_in}
    tuned = replace(config, epochs=stages.finetune_epochs, **tuning)
    sparse = replace(config, keep="last")
    whole = SlimConfig(dense=config, sparse=sparse, finetune=tuned, strength=stages.s, **slimming)
    return run_slimming(opened, parts, whole, title=f"{model.model} slimmed")
