"""`secateur iterate`: prune in steps, and recover and fine-tune after each."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.app import commands
from secateur.cli.finetuning import Teaching, listed
from secateur.cli.options import (
    AsJson,
    DataDir,
    DataName,
    Device,
    Download,
    Macs,
    Memory,
    ModelWord,
    Params,
    Save,
    Seed,
    SizeBytes,
    Threads,
    command_line,
    emit,
    example_of,
    load_data,
    open_placed,
    require_other_folder,
    say,
)
from secateur.domains.classification.images import labelled
from secateur.iterative import ROWS, SCHEDULES, Recipe
from secateur.iterative import iterate as prune_in_steps
from secateur.score.criterion import criteria
from secateur.train import FitConfig, evaluate


@commands("iterate")
def iterate(
    model: ModelWord,
    save: Save,
    steps: Annotated[int, typer.Option(help="How many cuts, each with a fine-tuning.")] = 5,
    schedule: Annotated[
        str, typer.Option(help=f"How the cuts share the work: {', '.join(SCHEDULES)}.")
    ] = "agp",
    ratio: Annotated[float | None, typer.Option(help="Share of channels to remove in all.")] = None,
    macs: Macs = None,
    params: Params = None,
    size_bytes: SizeBytes = None,
    memory: Memory = None,
    criterion: Annotated[str, typer.Option(help=f"How channels are scored: {', '.join(criteria)}.")] = "l2",
    scope: Annotated[str, typer.Option(help="global, local or isomorphic.")] = "global",
    min_keep: Annotated[float, typer.Option(help="Share of each group that always stays.")] = 0.1,
    round_to: Annotated[int, typer.Option(help="Round kept counts up to a multiple of this.")] = 1,
    protect: Annotated[
        list[str] | None, typer.Option(help="Module or parameter pattern to keep whole; may be repeated.")
    ] = None,
    recover: Annotated[
        list[str] | None,
        typer.Option(help="Recovery after each cut: absorb, refit, batch-norm, or none; may be repeated."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Training images for criteria (with labels) and recovery (without).")
    ] = 1024,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning after each cut.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate at the start of each fine-tuning.")] = 0.02,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr_schedule: Annotated[
        str, typer.Option(help="step (tenfold cut at 50 % and 75 %) or cosine.")
    ] = "cosine",
    distil: Annotated[
        bool, typer.Option("--distil", help="The model that comes in teaches every fine-tuning.")
    ] = False,
    data: DataName = "digits",
    resume: Annotated[bool, typer.Option(help="Go on with the run in --save.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete the run that is already in --save.")] = False,
    check: Annotated[bool, typer.Option(help="Prove every cut.")] = True,
    data_dir: DataDir = None,
    download: Download = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Prune in steps: cut a share, recover it without training, fine-tune, and again.

    Every stage is a line in SAVE/steps.jsonl as soon as it is known, every step a saved model.

    Example: secateur iterate runs/dense --ratio 0.8 --steps 4 --schedule agp --epochs 3 --save runs/steps
    """
    require_other_folder(model, save)
    tune = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "schedule": lr_schedule, "seed": seed}
    recipe = Recipe(
        FitConfig(**tune, device=device, threads=threads),  # type: ignore[arg-type]
        steps=steps,
        schedule=schedule,
        ratio=ratio,
        macs=macs,
        params=params,
        size_bytes=size_bytes,
        memory=memory,
        criterion=criterion,
        scope=scope,
        min_keep=min_keep,
        round_to=round_to,
        protect=tuple(protect or ()),
        recover=_recovery(recover),
        check=check,
        seed=seed,
    )
    parts = load_data(data, data_dir, download, seed)
    opened = open_placed(model, {}, seed, device)
    teaching = Teaching(model if distil else None, weight=0.9, temperature=4.0)
    done = prune_in_steps(
        opened.model,
        example_of(parts).to(next(opened.model.parameters()).device),
        parts,
        recipe,
        calibration=labelled(parts.train, images, seed),
        distillation=teaching.distillation(opened, opened if distil else None),
        save=save,
        resume=resume,
        overwrite=overwrite,
        plan=opened.plan,
        on_row=lambda row: say(str(row)),
    )
    done = replace(done, plan=done.plan.model_copy(update={"command": command_line()}))
    done.save(save)
    test = evaluate(done.model, parts.test, device=device, threads=threads)
    rows, written = save / ROWS, [str(save), str(save / ROWS)]
    numbers = {
        "accuracy": test.accuracy,
        "loss": test.loss,
        "before": vars(done.before),
        "after": vars(done.after),
        "rows": list(map(asdict, done.rows)),
        "written": written,
    }
    text = f"{done}\n{test.accuracy * 100:.2f} % of {test.n} test images right\n"
    text += f"wrote {_models(save)}, a step-NN folder for each of {steps} steps, and {rows}"
    emit(numbers, text, as_json=as_json)


def _recovery(words: list[str] | None) -> tuple[str, ...]:
    """The steps that were asked for; those that `secateur.recover` takes of itself where none were."""
    named = listed(words)
    if named == ["none"]:
        return ()
    return tuple(named) or ("absorb", "refit")


def _models(save: Path) -> str:
    return f"{save}/weights.safetensors and {save}/plan.json"
