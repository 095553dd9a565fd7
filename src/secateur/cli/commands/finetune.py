"""`secateur finetune`: train a pruned model on, from a teacher, after a recovery, or as a baseline."""

from typing import Annotated

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.finetuning import DistillationOptions, StartOptions, recovered, scratch
from secateur.cli.flatten import Without
from secateur.cli.options import MachineOptions, ModelOptions, Save, require_other_folder
from secateur.cli.terminal import Answer
from secateur.cli.training import Session, run_training
from secateur.errors import RequestError
from secateur.train import FitConfig, judge, last_folder


def finetune(
    model: ModelOptions,
    save: Save,
    data: DataOptions,
    config: Annotated[FitConfig, Without("keep", epochs=10, lr=0.02, schedule="cosine")],
    teaching: DistillationOptions,
    start: StartOptions,
    place: MachineOptions,
) -> Answer:
    """Train a saved model on; the result is a saved model too and can be pruned again.

    With --teacher it learns from the network before the cut, with --from-scratch it is the honest baseline:
    the pruned architecture that never knew the pruned weights.

    Example: secateur finetune runs/pruned --data digits --epochs 10 --teacher runs/sparse --save runs/tuned
    """
    require_other_folder(model.model, save)
    if start.from_scratch is not None and start.steps:
        raise RequestError(
            "--from-scratch and --recover were both given",
            ["fresh weights have nothing to recover"],
            "choose one of them",
        )
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed)
    dense = teaching.open()
    distillation = teaching.distillation(opened, dense)
    told: dict[str, object] = {}
    if start.from_scratch is not None:
        opened, config, told = scratch(opened, parts, start.from_scratch, config)
    elif start.steps and not (
        config.resume and last_folder(save) is not None
    ):  # a run that goes on is past it
        opened, told = recovered(opened, dense, parts, start, place.seed)
    before = None
    if start.from_scratch is None and not config.resume:
        test = parts.validation
        before = judge(opened.model, test, parts.task, device=place.device, threads=place.threads)
    session = Session(opened, parts, config, distillation=distillation, told=told, before=before)
    return run_training(session)
