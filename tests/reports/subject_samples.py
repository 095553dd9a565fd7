"""Things of every kind that reports are made of, small and quick to make."""

import functools
import json
from dataclasses import asdict
from pathlib import Path

import torch

import secateur as sc
from secateur.domains.darknet.fit import DetectorRecord, TrainedDetector
from secateur.domains.darknet.sweep import PercentRow as PercentRow
from secateur.domains.darknet.sweep import Sweep
from secateur.iterative import ROWS
from secateur.iterative.rows import StageRow
from secateur.penalise.sparsity import GAMMA_EDGES
from secateur.sweep.blocks import BlockRow, BlockSweep
from secateur.sweep.channels import ChannelSweep, SweepRow
from secateur.sweep.curves import Curves, Point
from secateur.train import Figures, FitResult
from secateur.train.checkpoint import Checkpoint, write_checkpoint
from secateur.train.history import EpochRecord
from secateur.write.checkpoint import save_model
from secateur.write.rows import flat
from secateur.zoo import models

EXAMPLE = torch.zeros(1, 1, 8, 8)


@functools.cache
def small_net():
    torch.manual_seed(0)
    return models["vgg11"](width=1 / 16, in_channels=1, image_size=8)


@functools.cache
def pruned(**words):
    words = {"ratio": 0.5, "seed": 0} | words
    return sc.prune(small_net(), EXAMPLE, **words)


@functools.cache
def recovered():
    torch.manual_seed(1)
    return sc.recover(pruned(), [torch.randn(16, 1, 8, 8) for _ in range(3)])


STEPS = tuple(
    StageRow(
        f"step-{k:02d} {stage}",
        k,
        stage,
        0.2 * k,
        0.2 * k,
        1000 - 200 * k,
        20_000 - 4000 * k,
        {"accuracy": right, "loss": 0.5},
        1.0,
    )
    for k in (1, 2)
    for stage, right in (("cut", 0.6), ("recovered", 0.8), ("tuned", 1 - k / 16))
)
RECORDS = tuple(
    EpochRecord(
        epoch, 0.1, {"cross entropy": 1.0 / epoch}, {"accuracy": 0.7},
        Figures({"accuracy": right, "loss": 0.4}, 8),
        penalty=0.1, near_zero_share=0.2 * epoch, gammas=(epoch, *[0] * (len(GAMMA_EDGES) - 2)), seconds=1.0,
    )
    for epoch, right in ((1, 0.6), (2, 0.9), (3, 0.8))
)  # fmt: skip
DETECTED = tuple(
    DetectorRecord(
        epoch,
        0.1,
        {"box": 1.0 / epoch, "objectness": 1.0 / epoch, "classes": 1.0 / epoch},
        {},
        None if map50 is None else Figures({"mAP50": map50, "mAP": map_}, 8),
        near_zero_share=0.1,
        seconds=1.0,
    )
    for epoch, map50, map_ in ((1, None, None), (2, 0.5, 0.3), (3, 0.7, 0.4))
)
PERCENTS = tuple(
    PercentRow(percent, score, 0.5 * score, params, 10 * params, 0.8)
    for percent, score, params in ((0.0, 0.9, 1000), (0.3, 0.88, 600), (0.6, 0.2, 300))
)
CHANNELS = (
    SweepRow(0, {"accuracy": 0.9}, (0.9, None), ()),
    SweepRow(3, {"accuracy": 0.7}, (0.5, 0.9), (1, 2, 0)),
)
POINTS = {
    "conv1": (Point("conv1", 0.0, 0, 0.9), Point("conv1", 0.5, 4, 0.6)),
    "conv2": (Point("conv2", 0.0, 0, 0.9), Point("conv2", 0.5, 8, 0.85)),
}
BLOCKS = (
    BlockRow("layer1.0", "layer1.0.conv2", {"accuracy": 0.85}, 0.05),
    BlockRow("layer1.1", "layer1.1.conv2", {"accuracy": 0.5}, 0.4),
)

OBJECTS = {
    "result": lambda: recovered(),
    "plan": lambda: pruned().plan,
    "fit": lambda: FitResult(small_net(), RECORDS, 2, 3),
    "detector": lambda: TrainedDetector(None, DETECTED, 3, 3, {}),
    "percents": lambda: Sweep("digits.cfg", "slim", PERCENTS),
    "channels": lambda: ChannelSweep("conv1", "removed", "l2", torch.zeros(8), CHANNELS),
    "curves": lambda: Curves("l2", POINTS, {"conv3": "nothing reads it"}),
    "blocks": lambda: BlockSweep(0.9, BLOCKS),
}


def lines(path: Path, opening, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (opening, *rows)))


def iterate_folder(folder: Path) -> Path:
    lines(folder / ROWS, {"steps": 2}, [flat(asdict(row)) for row in STEPS])
    return folder


def sweep_folder(folder: Path) -> Path:
    opening = {"sweep": "channels", "layer": "conv1", "where": "removed", "criterion": "l2"}
    lines(folder / "sweep.jsonl", opening, [flat(asdict(row)) for row in CHANNELS])
    held = [{"point": "", "removed": [], **asdict(point)} for points in POINTS.values() for point in points]
    for by, name in (("layers", "curves"), ("groups", "groups")):
        told = {"sweep": "sensitivity", "criterion": "l2", "by": by}
        lines(folder / f"{name}.jsonl", told, held)
    lines(
        folder / "blocks.jsonl", {"sweep": "blocks"}, [{"dense": 0.9, **flat(asdict(row))} for row in BLOCKS]
    )
    return folder


def percent_folder(folder: Path, strategy: str = "slim") -> Path:
    opening = {"network": "digits.cfg", "fingerprint": "", "strategy": strategy, "options": {}}
    lines(folder / "sweep.jsonl", opening, map(asdict, PERCENTS))
    return folder


def training_folder(folder: Path) -> Path:
    for epoch in (1, 2, 3):
        weights = {"weight": torch.full((2,), float(epoch))}
        write_checkpoint(folder, Checkpoint(weights, {}, {}, RECORDS[:epoch], {}))
    return folder


def detector_folder(folder: Path) -> Path:
    write_checkpoint(folder, Checkpoint({}, {}, {}, DETECTED, {}))
    return folder


def saved_folder(folder: Path) -> Path:
    result = pruned()
    arguments = {"width": 1 / 16, "in_channels": 1, "image_size": 8}
    plan = result.plan.model_copy(update={"source": "zoo:vgg11", "source_arguments": arguments})
    return save_model(result.model, plan, folder)


FOLDERS = {
    "iterate": iterate_folder,
    "sweep": sweep_folder,
    "percents": percent_folder,
    "training": training_folder,
    "detector": detector_folder,
    "saved": saved_folder,
}
