"""`secateur iterate`: prune in steps, and recover and fine-tune after each."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.capture.inputs import map_inputs
from secateur.cli.asking import AskOptions, CriterionOptions, read_words
from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.finetuning import DistillationOptions
from secateur.cli.flatten import Like, Without
from secateur.cli.options import MachineOptions, ModelOptions, RunFolderOptions, Save, require_other_folder
from secateur.cli.terminal import Answer, command_line, say
from secateur.iterative import ROWS, Recipe, StageRow
from secateur.iterative import iterate as prune_in_steps
from secateur.mask.schedule import step_schedules
from secateur.sources import split_word
from secateur.train import TUNING, FitConfig, judge
from secateur.write.rows import flat


@dataclass(frozen=True)
class IterateOptions:
    """How the work is shared, and what follows each cut.

    Attributes:
        steps: How many cuts, each with a fine-tuning.
        schedule: How the cuts share the work.
        recover: Recovery after each cut: absorb, refit, blocks, distil, batch-norm, or none; may be repeated;
            default: absorb,refit.
        images: Training images for criteria (with labels) and recovery (without).
        lr_schedule: step (tenfold cut at 50 % and 75 %) or cosine.
        distil: The model that comes in teaches every fine-tuning; default: a saved model does.
    """

    steps: int = 5
    schedule: Annotated[
        str, typer.Option(help=f"How the cuts share the work: {', '.join(step_schedules)}.")
    ] = "agp"
    recover: tuple[str, ...] = ()
    images: Annotated[int, typer.Option(min=1)] = 1024
    lr_schedule: str = "cosine"
    distil: Annotated[bool | None, typer.Option("--distil/--no-distil")] = None


_OF_EACH_STEP = ("keep", "schedule", "steps", "scales", "save", "resume", "overwrite", "tensorboard")
"""What is decided for each fine-tuning, or has another name here."""


def iterate(
    model: ModelOptions,
    save: Save,
    steps: IterateOptions,
    asked: Annotated[dict[str, Any], Like(AskOptions, "latency_ms", "keep", "search", "depth")],
    scoring: CriterionOptions,
    config: Annotated[
        FitConfig,
        Without(*_OF_EACH_STEP, epochs=5, lr=TUNING["lr"], burn_in=TUNING["burn_in"]),
    ],
    data: DataOptions,
    again: RunFolderOptions,
    place: MachineOptions,
) -> Answer:
    """Prune in steps: cut a share, recover it without training, fine-tune, and again.

    Every stage is a line in SAVE/steps.jsonl as soon as it is known, every step a saved model.

    Example: secateur iterate runs/dense --ratio 0.8 --steps 4 --schedule agp --epochs 3 --save runs/steps
    """
    require_other_folder(model.model, save)
    words = {**read_words(asked), "criterion": scoring.choose()}
    if words.get("recover") == ["none"]:
        words["recover"] = ()
    recipe = Recipe(
        replace(config, schedule=steps.lr_schedule),  # type: ignore[arg-type]
        steps=steps.steps,
        schedule=steps.schedule,
        **words,
    )
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed, place.device)
    is_taught, first = steps.distil, []
    if is_taught is None and parts.task.has_distance and split_word(model.model)[0] is not None:
        is_taught, first = True, [f"{model.model} teaches every fine-tuning; --no-distil leaves it out"]

    def tell(row: StageRow) -> None:
        while first:
            say(first.pop())
        say(str(row))

    done = prune_in_steps(
        opened.model,
        map_inputs(parts.example, lambda leaf: leaf.to(next(opened.model.parameters()).device)),
        parts,
        recipe,
        task=parts.task,
        calibration=parts.evidence(steps.images, place.seed),
        distillation=DistillationOptions().distillation(opened, opened if is_taught else None),
        save=save,
        resume=again.resume,
        overwrite=again.overwrite,
        plan=opened.plan,
        on_row=tell,
    )
    done = replace(done, plan=done.plan.model_copy(update={"command": command_line()}))
    done.save(save)
    test = judge(done.model, parts.test, parts.task, device=place.device, threads=place.threads)
    rows, written = save / ROWS, [str(save), str(save / ROWS)]
    numbers = {
        **test.values,
        "before": vars(done.before),
        "after": vars(done.after),
        "rows": [flat(asdict(row)) for row in done.rows],
        "written": written,
    }
    text = f"{done}\n{parts.task.tell(test, 'test')}\n"
    text += f"wrote {_models(save)}, a step-NN folder for each of {steps.steps} steps, and {rows}"
    return Answer(numbers, text)


def _models(save: Path) -> str:
    return f"{save}/weights.safetensors and {save}/plan.json"
