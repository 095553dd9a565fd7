"""What `train` and `finetune` share: fit, evaluate, save, tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from secateur.cli.terminal import Answer, say
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.penalise import Penalty, penalties
from secateur.pipeline import couple, measure, plan_model
from secateur.slimming import outlook
from secateur.sources import Opened
from secateur.train import Distillation, FitConfig, Work, fit, judge
from secateur.write.atomic import atomic_write
from secateur.write.checkpoint import PLAN, save_model

_STRENGTHS = ", ".join(f"{kind.default_strength:g} for {name}" for name, kind in penalties.items())


@dataclass(frozen=True)
class SparsityOptions:
    """The penalty that a training is asked for.

    Attributes:
        sparsity: A penalty, or none.
        s: Its strength; None takes the penalty's own.
        ratio: Share of the channels that growing-l2 pushes out.
        criterion: What chooses those channels.
    """

    sparsity: Annotated[str, typer.Option(help=f"none, or a penalty: {', '.join(penalties)}.")] = "none"
    s: Annotated[
        float | None, typer.Option(min=0.0, help=f"Strength of the penalty; default: {_STRENGTHS}.")
    ] = None
    ratio: float | None = None
    criterion: str = "l1"


@dataclass(frozen=True)
class Session:
    """One training from the command line.

    Attributes:
        opened: The model to start from.
        data: What to train on.
        config: How; which epoch is kept is decided here.
        sparsity: A penalty.
        distillation: A teacher.
        told: Further numbers of the result.
        is_tuning: The model is good already: where no epoch is better, its weights stay.
    """

    opened: Opened
    data: Work
    config: FitConfig
    sparsity: SparsityOptions = SparsityOptions()
    distillation: Distillation | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    is_tuning: bool = False


def run_training(session: Session) -> Answer:
    """Fit, save the result beside its checkpoints, and tell what came out."""
    opened, data = session.opened, session.data
    config = replace(session.config, keep="best-or-start" if session.is_tuning else "best")
    if session.sparsity.sparsity != "none":
        config = replace(config, keep="last")
    if config.save is None:
        raise RequestError("no folder to save to", do="pass --save FOLDER")
    plan_text = opened.plan.to_json().encode()
    fitted = fit(
        opened.model,
        data,
        config,
        _penalty(session, config),
        session.distillation,
        task=data.task,
        on_checkpoint=lambda folder: atomic_write(folder / PLAN, plan_text),
    )
    folder = save_model(fitted.model, opened.plan, config.save)
    test = judge(fitted.model, data.test, data.task, device=config.device, threads=config.threads)
    cost = measure(fitted.model, data.example)
    kept = fitted.kept.figures  # None of an epoch that was not validated
    numbers = {
        **test.values,
        **({f"validation_{kept.name}": kept.deciding} if kept else {}),
        "epochs": len(fitted.history),
        "kept_epoch": fitted.kept_epoch,
        "near_zero_share": fitted.kept.near_zero_share,
        "params": cost.params,
        "macs": cost.macs,
        "saved": str(folder),
        "notes": list(fitted.notes),
        **session.told,
    }
    lines = [f"{fitted}; {data.task.tell(test, 'test')}", *fitted.notes]
    before = None if fitted.start is None else fitted.start.figures
    if before is not None:
        numbers[f"validation_{before.name}_before"] = before.deciding
    if not fitted.kept_epoch:
        lines.append(
            "no epoch was better than the model that came in, whose weights are kept: "
            "train longer or with a lower --lr"
        )
    return Answer(numbers, "\n".join([*lines, f"wrote {_listed(folder)}"]))


def _penalty(session: Session, config: FitConfig) -> Penalty | None:
    """The penalty on prunable groups, and a word on what it acts on."""
    asked, model = session.sparsity, session.opened.model
    kind = None if asked.sparsity == "none" else penalties[asked.sparsity]
    if asked.ratio is not None and (kind is None or not kind.needs_keep):
        what = f"--sparsity {asked.sparsity} pushes no chosen channels out"
        do = "choose --sparsity growing-l2, or leave --ratio for secateur prune"
        raise RequestError(f"--ratio {asked.ratio:g} was given, but {what}", do=do)
    if kind is None and asked.s is not None:
        raise RequestError(
            f"--s {asked.s:g} was given without a penalty",
            do="choose one with --sparsity, such as bn-l1",
        )
    if kind is None:
        return None
    strength = kind.default_strength if asked.s is None else asked.s
    groups = couple(model, session.data.example)
    keep = _keep(model, session, asked) if kind.needs_keep else None
    penalty = kind.of(model, groups, strength, keep)
    say(_described(penalty, asked, groups, session, config))
    return penalty


def _keep(model: nn.Module, session: Session, asked: SparsityOptions) -> dict[str, tuple[int, ...]]:
    if asked.ratio is None:
        raise RequestError(
            f"--sparsity {asked.sparsity} must know how many channels will go",
            do="pass --ratio, such as --ratio 0.5",
        )
    example, seed = session.data.example, session.config.seed
    return plan_model(model, example, ratio=asked.ratio, criterion=asked.criterion, seed=seed).keep


def _described(
    penalty: Penalty, asked: SparsityOptions, groups: Groups, session: Session, config: FitConfig
) -> str:
    if asked.sparsity == "bn-l1":
        scales = penalty.scales
        initial = sum(float(scale.detach().abs().mean()) for scale in scales) / len(scales)
        return str(outlook(config, penalty.strength, len(session.data.train), initial))
    channels = sum(group.size for group in groups.prunable)
    share = "all" if asked.ratio is None else f"{asked.ratio * 100:g} %"
    on = f"{asked.sparsity} with s={penalty.strength:g}"
    on += f" on {share} of {channels} channels and all that goes along"
    if asked.ratio is not None:
        return on
    count = sum(parameter.numel() for parameter in penalty.parameters)
    spread = (sum(float(one.detach().square().sum()) for one in penalty.parameters) / count) ** 0.5
    shift = outlook(config, penalty.strength, len(session.data.train), spread).shift
    return f"{on}: it can move a number by {shift:.2g}, their root mean square is {spread:.2g}"


def _listed(folder: Path) -> str:
    return f"{folder}/weights.safetensors and {folder}/{PLAN}"
