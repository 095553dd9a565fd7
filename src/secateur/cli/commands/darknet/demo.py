"""`secateur darknet demo`: the whole job on the bundled digit scenes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.flatten import Like
from secateur.cli.options import MachineOptions, Save
from secateur.cli.terminal import Answer, say
from secateur.domains.darknet.demo import DemoConfig, run_demo
from secateur.reports.subjects import report

_USUAL = DemoConfig(Path("demo-yolo"))


@dataclass(frozen=True)
class DemoOptions:
    """How much is done.

    Attributes:
        epochs: Of dense training, sparse training and fine-tuning.
        images: Training and validation scenes.
    """

    epochs: str = ",".join(map(str, _USUAL.epochs))
    images: str = ",".join(map(str, _USUAL.images))


def demo(
    asked: Annotated[dict[str, Any], Like(DemoConfig, "epochs", "images", "schedule", "pictures", "quiet")],
    sizes: DemoOptions,
    place: MachineOptions,
    save: Save = _USUAL.save,
) -> Answer:
    """Train a small YOLO on digit scenes, sparse-train, prune, fine-tune, detect: table and pictures.

    Example: secateur darknet demo --save demo-yolo
    """
    first, second, third = _numbers("--epochs", sizes.epochs, 3)
    train, valid = _numbers("--images", sizes.images, 2)
    config = DemoConfig(epochs=(first, second, third), images=(train, valid), **asked)
    run = run_demo(config, say)
    for suffix in ("html", "json"):
        report(run, save / f"report.{suffix}")
    return Answer(run.numbers(), str(run))


def _numbers(option: str, text: str, count: int) -> list[int]:
    words = text.split(",")
    if len(words) != count or not all(word.strip().isdecimal() for word in words):
        raise typer.BadParameter(f"'{text}' is not {count} numbers with commas", param_hint=option)
    return [int(word) for word in words]
