"""The whole job on data that needs no download: train, sparse-train, prune, fine-tune, detect, compare.

Digit scenes (see `data/digits.py`) and the small network `digits.cfg`, which has every coupling of YOLOv3.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from secateur.domains.darknet.data import Annotations, Augmentation, Loader, digit_scenes, loader
from secateur.domains.darknet.detect import Thresholds, detect_picture
from secateur.domains.darknet.draw import draw, side_by_side
from secateur.domains.darknet.fit import Teaching, fit_detector
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.prune import DarknetPruned, prune_darknet
from secateur.domains.darknet.recipe import DetectorFitConfig
from secateur.domains.darknet.sparsity import sparsity_for
from secateur.domains.darknet.start import expect_nothing
from secateur.domains.darknet.table import DarknetStage, measure_stage, stage_table, time_in_turn
from secateur.errors import RequestError
from secateur.train.device import require_one_process
from secateur.write.atomic import atomic_write

__all__ = ["DemoConfig", "DemoRun", "run_demo"]

AUGMENTATION = Augmentation(flip=0.0, hue=0.0, saturation=1.0, exposure=1.0, shift=0.08, scale=(0.85, 1.15))
"""Moves and sizes only: digits are never mirrored, the scenes come in every colour, and colours cost half of
the time."""


@dataclass(frozen=True)
class DemoConfig:
    """How the demonstration runs.

    Attributes:
        save: Folder to write to.
        epochs: Of dense training, of sparse training, of fine-tuning.
        images: Training scenes, validation scenes.
        strategy: The pruning strategy.
        percent: Share of the scales below its threshold.
        sparsity: `s` of sparse training.
        schedule: Its schedule.
        pictures: Scenes drawn into the comparison.
        seed: Seeds scenes, initial weights, order and augmentation.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        threads: Threads of the CPU; None leaves torch's setting.
        quiet: Show no progress of the trainings.
    """

    save: Path
    epochs: tuple[int, int, int] = (8, 5, 3)
    images: tuple[int, int] = (1000, 250)
    strategy: str = "slim"
    percent: float = 0.6
    sparsity: float = 0.15
    schedule: str = "constant"
    pictures: int = 6
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs) < 1 or min(self.images) < 1 or self.pictures < 1:
            what = f"epochs {self.epochs}, images {self.images}, pictures {self.pictures}"
            raise RequestError(what, do="pass at least 1 of each")


@dataclass(frozen=True, eq=False)
class DemoRun:
    """What came out.

    Attributes:
        stages: Dense, sparse, pruned, finetuned.
        pruned: The cut and its proof.
        near_zero: Share of the pulled scales near zero after sparse training.
        written: Files and what they are.
        seconds: Wall time in all.
    """

    stages: tuple[DarknetStage, ...]
    pruned: DarknetPruned
    near_zero: float
    written: dict[str, Path]
    seconds: float

    def numbers(self) -> dict[str, Any]:
        """The figures for machines: an object for each stage, and the proof."""
        verdict = self.pruned.verdict
        return {stage.name: stage.numbers() for stage in self.stages} | {
            "strategy": self.pruned.strategy,
            "near_zero_share": self.near_zero,
            "verdict": verdict.status if verdict else None,
            "relative_error": verdict.relative_error if verdict else None,
            "written": {name: str(path) for name, path in self.written.items()},
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        files = ", ".join(f"{name} {path}" for name, path in self.written.items())
        lines = [
            str(self.pruned),
            stage_table(self.stages),
            f"{self.seconds:.0f} s; .cfg and .weights of each stage, {files}",
        ]
        return "\n".join(lines)


def run_demo(config: DemoConfig, say: Callable[[str], None]) -> DemoRun:
    """Train the small network on digit scenes, sparse-train, prune, fine-tune, measure, draw.

    Args:
        config: How.
        say: Told what happens, line by line.

    Returns:
        The stages and what was written.
    """
    require_one_process()
    started = time.perf_counter()
    torch.manual_seed(config.seed)  # the initial weights are drawn
    dense = Darknet("digits")
    expect_nothing(dense)
    side = int(dense.config.net["width"])
    scenes = digit_scenes(train=config.images[0], valid=config.images[1], size=side, seed=config.seed)
    say(str(scenes))
    bench = _Bench(config, scenes, side, say)
    recipe = DetectorFitConfig(
        epochs=config.epochs[0], lr=0.01, policy="cosine", burn_in=0.1, nesterov=True, keep="last",
        validate_every=max(config.epochs), seed=config.seed, device=config.device, threads=config.threads,
        quiet=config.quiet,
    )  # fmt: skip
    dense = bench.train(dense, "dense", recipe)
    sparsity = sparsity_for(dense, config.strategy, config.sparsity, config.schedule)
    gentle = replace(recipe, epochs=config.epochs[1], burn_in=0.0)
    sparse = bench.train(dense, "sparse", gentle, Teaching(sparsity))
    near_zero = sparsity.near_zero(sparse)
    say(f"near zero: {near_zero:.0%} of the scales that {config.strategy} prunes")
    pruned = prune_darknet(sparse, config.strategy, percent=config.percent, seed=config.seed)
    bench.measure("pruned", pruned.model)
    tuned = bench.train(pruned.model, "finetuned", replace(gentle, epochs=config.epochs[2], lr=0.005))
    bench.time_again(side)
    picture = _compare(config, scenes, {"dense": dense, "pruned": pruned.model, "fine-tuned": tuned})
    table = config.save / "table.txt"
    atomic_write(table, f"{stage_table(bench.stages)}\n".encode())
    written = {"pictures": picture, "table": table}
    return DemoRun(tuple(bench.stages), pruned, near_zero, written, time.perf_counter() - started)


class _Bench:
    """Trains and measures stage by stage."""

    def __init__(
        self, config: DemoConfig, scenes: Annotations, side: int, say: Callable[[str], None]
    ) -> None:
        self.config, self.say = config, say
        self.stages: list[DarknetStage] = []
        self.models: list[Darknet] = []
        self.batches: Loader = loader(
            scenes["train"],
            scenes.names,
            side,
            16,
            training=True,
            augmentation=AUGMENTATION,
            seed=config.seed,
        )
        self.valid = loader(scenes["valid"], scenes.names, side, 50)

    def train(
        self, model: Darknet, name: str, recipe: DetectorFitConfig, teaching: Teaching | None = None
    ) -> Darknet:
        self.say(f"{name}: {recipe.epochs} epochs of {self.batches}")
        trained = fit_detector(model, self.batches, None, recipe, teaching).model.eval()
        self.measure(name, trained)
        return trained

    def measure(self, name: str, model: Darknet) -> None:
        stage = measure_stage(name, model, self.valid, self.config.save)
        self.stages.append(stage)
        self.models.append(model)
        self.say(f"{name}: mAP@0.5 {stage.map50:.4f}, mAP {stage.map:.4f}, {stage.params:,} parameters")

    def time_again(self, side: int) -> None:
        """Time all stages in turn: between two trainings the machine may have been busy."""
        times = time_in_turn(self.models, (side, side))
        for row, (one, many) in enumerate(times):
            self.stages[row] = replace(self.stages[row], latency_ms=one, latency_batch_ms=many)


def _compare(config: DemoConfig, scenes: Annotations, models: dict[str, Darknet]) -> Path:
    """Draw what each network finds in the same scenes."""
    rows = []
    for sample in scenes["valid"][: config.pictures]:
        assert isinstance(sample.image, torch.Tensor), "scenes are in memory"
        found = [detect_picture(model, sample.image, Thresholds(conf=0.4)) for model in models.values()]
        rows.append([draw(sample.image, boxes, scenes.names, least=288) for boxes in found])
    path = config.save / "detections.png"
    atomic_write(path, side_by_side(rows, list(models)).save)
    return path
