"""`secateur darknet demo`: the whole job on the bundled digit scenes."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import Strategy
from secateur.cli.options import AsJson, Device, Seed, Threads, emit, say
from secateur.domains.darknet.demo import DemoConfig, run_demo

_USUAL = DemoConfig(Path("demo-yolo"))


@verbs("demo")
def demo(
    save: Annotated[Path, typer.Option("--save", help="Folder to write to.")] = _USUAL.save,
    strategy: Strategy = _USUAL.strategy,
    percent: Annotated[float, typer.Option(help="Share of the scales below the threshold.")] = _USUAL.percent,
    sparsity: Annotated[float, typer.Option(help="Strength of sparse training.")] = _USUAL.sparsity,
    epochs: Annotated[
        str, typer.Option(help="Of dense training, sparse training and fine-tuning.")
    ] = ",".join(map(str, _USUAL.epochs)),
    images: Annotated[str, typer.Option(help="Training and validation scenes.")] = ",".join(
        map(str, _USUAL.images)
    ),
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a small YOLO on digit scenes, sparse-train, prune, fine-tune, detect: table and pictures.

    Example: secateur darknet demo --save demo-yolo
    """
    first, second, third = _numbers("--epochs", epochs, 3)
    train, valid = _numbers("--images", images, 2)
    config = DemoConfig(
        save=save,
        epochs=(first, second, third),
        images=(train, valid),
        strategy=strategy,
        percent=percent,
        sparsity=sparsity,
        seed=seed,
        device=device,
        threads=threads,
    )
    run = run_demo(config, say)
    emit(run.numbers(), str(run), as_json=as_json)


def _numbers(option: str, text: str, count: int) -> list[int]:
    words = text.split(",")
    if len(words) != count or not all(word.strip().isdecimal() for word in words):
        raise typer.BadParameter(f"'{text}' is not {count} numbers with commas", param_hint=option)
    return [int(word) for word in words]
