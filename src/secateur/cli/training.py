"""What `train` and `finetune` share: fit, evaluate, save, tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.cli.options import emit, example_of, say
from secateur.domains.classification import Splits
from secateur.domains.classification.slimming import outlook, penalised_scales
from secateur.errors import RequestError
from secateur.penalise import Penalty, penalties
from secateur.pipeline import couple, measure
from secateur.sources import Opened
from secateur.train import FitConfig, evaluate, fit
from secateur.write.atomic import atomic_write
from secateur.write.checkpoint import PLAN, save_model


@dataclass(frozen=True)
class Session:
    """One training from the command line.

    Attributes:
        opened: The model to start from.
        data: What to train on.
        settings: Arguments of `FitConfig`.
        sparsity: A penalty's name, or "none".
        strength: The penalty's strength.
    """

    opened: Opened
    data: Splits
    settings: Mapping[str, Any]
    sparsity: str = "none"
    strength: float = 0.0


def run_training(session: Session, *, as_json: bool) -> None:
    """Fit, save the result beside its checkpoints, and print what came out."""
    opened, data = session.opened, session.data
    config = FitConfig(**session.settings, keep="best" if session.sparsity == "none" else "last")
    if config.save is None:
        raise RequestError("no folder to save to", do="pass --save FOLDER")
    plan_text = opened.plan.to_json().encode()
    fitted = fit(
        opened.model,
        data,
        config,
        _penalty(session, config),
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
    }
    text = f"{fitted}; {test.accuracy * 100:.2f} % of {test.n} test images right\nwrote {_listed(folder)}"
    emit(numbers, text, as_json=as_json)


def _penalty(session: Session, config: FitConfig) -> Penalty | None:
    """The penalty on the scales of prunable groups, and a word on what it will reach."""
    if session.sparsity == "none":
        return None
    make = penalties[session.sparsity]
    model = session.opened.model
    scales = penalised_scales(model, couple(model, example_of(session.data)), session.sparsity)
    initial = sum(float(scale.detach().abs().mean()) for scale in scales) / len(scales)
    say(str(outlook(config, session.strength, len(session.data.train), initial)))
    return make(scales, session.strength)


def _listed(folder: Path) -> str:
    return f"{folder}/weights.safetensors and {folder}/{PLAN}"
