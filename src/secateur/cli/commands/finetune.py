"""`secateur finetune`: train a pruned model on, from a teacher, after a recovery, or as a baseline."""

from dataclasses import replace
from typing import Annotated

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.finetuning import NO_TEACHER, DistillationOptions, StartOptions, recovered, scratch
from secateur.cli.flatten import Without
from secateur.cli.options import MachineOptions, ModelOptions, Save, require_other_folder
from secateur.cli.terminal import Answer
from secateur.cli.training import Session, run_training
from secateur.errors import RequestError
from secateur.recovery import choose as choose_steps
from secateur.train import TUNING, FitConfig, last_folder

_OFFERED = {name: value for name, value in TUNING.items() if name != "keep"}


def finetune(
    model: ModelOptions,
    save: Save,
    data: DataOptions,
    config: Annotated[FitConfig, Without("keep", epochs=10, **_OFFERED)],
    teaching: DistillationOptions,
    start: StartOptions,
    place: MachineOptions,
) -> Answer:
    """Train a saved model on; the result is a saved model too and can be pruned again.

    It learns from the network before the cut, too, where that is there (--teacher none: from labels alone).
    Where no epoch is better on the validation part than the model that came in, its weights stay. With
    --from-scratch it is the honest baseline: the pruned architecture that never knew the pruned weights.

    Example: secateur finetune runs/pruned --data digits --epochs 10 --teacher runs/sparse --save runs/tuned
    """
    require_other_folder(model.model, save)
    if start.from_scratch is not None and start.steps:
        raise RequestError(
            "--from-scratch and --recover were both given",
            ["fresh weights have nothing to recover"],
            "choose one of them",
        )
    if start.steps:  # what makes no sense is better refused before the work than after
        choose_steps(start.steps, has_data=True)
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed)
    if start.from_scratch is not None and teaching.teacher is None:
        teaching = replace(teaching, teacher=NO_TEACHER)
    dense = teaching.open(opened, model.model, parts.task)
    distillation = teaching.distillation(opened, dense)
    told: dict[str, object] = {}
    if dense is not None:
        teaching.tell(model.model)
    if start.from_scratch is not None:
        opened, config, told = scratch(opened, parts, start.from_scratch, config)
    elif start.steps and not (
        config.resume and last_folder(save) is not None
    ):  # a run that goes on is past it
        opened, told = recovered(opened, dense, parts, start, place.seed)
    is_tuning = start.from_scratch is None
    session = Session(opened, parts, config, distillation=distillation, told=told, is_tuning=is_tuning)
    return run_training(session)
