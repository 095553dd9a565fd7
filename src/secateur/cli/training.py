"""What `train` and `finetune` share: fit, evaluate, save, tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from secateur.cli.options import emit, example_of, say
from secateur.coupling import Groups
from secateur.domains.classification import Splits
from secateur.domains.classification.slimming import outlook
from secateur.errors import RequestError
from secateur.penalise import Penalty, penalties
from secateur.pipeline import couple, measure, plan_model
from secateur.sources import Opened
from secateur.train import Distillation, FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.write.checkpoint import PLAN, save_model


@dataclass(frozen=True)
class Sparsity:
    """The penalty that a training is asked for.

    Attributes:
        name: A registered penalty, or "none".
        strength: Its strength; None takes the penalty's own.
        ratio: Share of the channels that it shall push out, for penalties that must be told which.
        criterion: What chooses those.
    """

    name: str = "none"
    strength: float | None = None
    ratio: float | None = None
    criterion: str = "l1"


@dataclass(frozen=True)
class Session:
    """One training from the command line.

    Attributes:
        opened: The model to start from.
        data: What to train on.
        settings: Arguments of `FitConfig`.
        sparsity: A penalty.
        distillation: A teacher.
        told: Further numbers of the result.
        before: Validation accuracy of the model to start from; None where its weights are fresh.
    """

    opened: Opened
    data: Splits
    settings: Mapping[str, Any]
    sparsity: Sparsity = Sparsity()
    distillation: Distillation | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    before: float | None = None


def run_training(session: Session, *, as_json: bool) -> None:
    """Fit, save the result beside its checkpoints, and print what came out."""
    opened, data = session.opened, session.data
    config = FitConfig(**session.settings, keep="best" if session.sparsity.name == "none" else "last")
    if config.save is None:
        raise RequestError("no folder to save to", do="pass --save FOLDER")
    plan_text = opened.plan.to_json().encode()
    fitted = fit(
        opened.model,
        data,
        config,
        _penalty(session, config),
        session.distillation,
        on_checkpoint=lambda folder: atomic_write(folder / PLAN, plan_text),
    )
    folder = save_model(fitted.model, opened.plan, config.save)
    test = evaluate(fitted.model, data.test, device=config.device, threads=config.threads)
    cost = measure(fitted.model, example_of(data))
    numbers = {
        "accuracy": test.accuracy,
        "validation_accuracy": fitted.kept.val_accuracy,
        "loss": test.loss,
        "epochs": len(fitted.history),
        "kept_epoch": fitted.kept_epoch,
        "near_zero_share": fitted.kept.near_zero_share,
        "params": cost.params,
        "macs": cost.macs,
        "saved": str(folder),
        **session.told,
    }
    lines = [f"{fitted}; {test.accuracy * 100:.2f} % of {test.n} test images right"]
    if session.before is not None:
        numbers["validation_accuracy_before"] = session.before
        if fitted.kept.val_accuracy < session.before:
            lines.append(
                f"worse than before the training ({session.before * 100:.2f} % of the validation images): "
                "train longer or with a lower --lr, or keep the model that it started from"
            )
    emit(numbers, "\n".join([*lines, f"wrote {_listed(folder)}"]), as_json=as_json)


def _penalty(session: Session, config: FitConfig) -> Penalty | None:
    """The penalty on prunable groups, and a word on what it acts on."""
    asked, model = session.sparsity, session.opened.model
    kind = None if asked.name == "none" else penalties[asked.name]
    if asked.ratio is not None and (kind is None or not kind.needs_keep):
        raise RequestError(
            f"--ratio {asked.ratio:g} was given, but --sparsity {asked.name} pushes no chosen channels out",
            do="choose --sparsity growing-l2, or leave --ratio for secateur prune",
        )
    if kind is None and asked.strength is not None:
        raise RequestError(
            f"--s {asked.strength:g} was given without a penalty",
            do="choose one with --sparsity, such as bn-l1",
        )
    if kind is None:
        return None
    strength = kind.default_strength if asked.strength is None else asked.strength
    groups = couple(model, example_of(session.data))
    keep = _keep(model, session, asked) if kind.needs_keep else None
    penalty = kind.of(model, groups, strength, keep)
    say(_described(penalty, asked, groups, session, config))
    return penalty


def _keep(model: nn.Module, session: Session, asked: Sparsity) -> dict[str, tuple[int, ...]]:
    if asked.ratio is None:
        raise RequestError(
            f"--sparsity {asked.name} must know how many channels will go",
            do="pass --ratio, such as --ratio 0.5",
        )
    example, seed = example_of(session.data), int(session.settings["seed"])
    return plan_model(model, example, ratio=asked.ratio, criterion=asked.criterion, seed=seed).keep


def _described(penalty: Penalty, asked: Sparsity, groups: Groups, session: Session, config: FitConfig) -> str:
    if asked.name == "bn-l1":
        scales = penalty.scales
        initial = sum(float(scale.detach().abs().mean()) for scale in scales) / len(scales)
        return str(outlook(config, penalty.strength, len(session.data.train), initial))
    channels = sum(group.size for group in groups.prunable)
    share = "all" if asked.ratio is None else f"{asked.ratio * 100:g} %"
    on = f"{asked.name} with s={penalty.strength:g} on {share} of {channels} channels and all that goes along"
    if asked.ratio is not None:
        return on
    count = sum(parameter.numel() for parameter in penalty.parameters)
    spread = (sum(float(one.detach().square().sum()) for one in penalty.parameters) / count) ** 0.5
    shift = outlook(config, penalty.strength, len(session.data.train), spread).shift
    return f"{on}: it can move a number by {shift:.2g}, their root mean square is {spread:.2g}"


def _listed(folder: Path) -> str:
    return f"{folder}/weights.safetensors and {folder}/{PLAN}"
