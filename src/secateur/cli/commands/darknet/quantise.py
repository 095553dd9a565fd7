"""`secateur darknet quantise`: INT8 after pruning, with mAP, size and time before and after."""

from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from torch import nn

from secateur.cli.darknet import BatchOptions, NetworkOptions, image_side
from secateur.cli.flatten import Without
from secateur.cli.options import MachineOptions, Save
from secateur.cli.terminal import Answer
from secateur.domains.darknet.evaluate import DetectionFigures
from secateur.domains.darknet.evaluate import evaluate as run_evaluate
from secateur.domains.darknet.predict import predictor
from secateur.domains.darknet.quantise import quantise as run_quantise


@dataclass(frozen=True)
class QuantiseOptions:
    """How numbers are rounded.

    Attributes:
        calibration: Training images to calibrate on.
        method: minmax or percentile.
        quantise_heads: The convolutions before the yolo layers too.
        reduce_range: 7 bits for weights: x86 processors without VNNI.
    """

    calibration: Annotated[int, typer.Option(min=1)] = 128
    method: str = "minmax"
    quantise_heads: bool = False
    reduce_range: bool = False


def quantise(
    network: NetworkOptions,
    save: Save,
    scenes: BatchOptions,
    rounding: QuantiseOptions,
    place: Annotated[MachineOptions, Without("device")],
) -> Answer:
    """Quantise to INT8 by ONNX Runtime, calibrated on training images; mAP, size and time before and after.

    Example: secateur darknet quantise runs/tuned --data digits --save runs/int8
    """
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    model = network.open("cpu")
    train, valid = (scenes.of(model, part) for part in ("train", "valid"))

    def evaluate(maps: nn.Module) -> DetectionFigures:
        return run_evaluate(predictor(model, maps), valid)

    made = run_quantise(
        model,
        save,
        train,
        evaluate,
        images=rounding.calibration,
        method=rounding.method,
        heads_in_float=not rounding.quantise_heads,
        reduce_range=rounding.reduce_range,
        image_size=image_side(model, scenes.size),
    )
    scores = [asdict(score) for score in made.score] if made.score else None
    numbers = {
        "size_bytes": list(made.size_bytes),
        "latency_ms": [timing.median_ms for timing in made.latency],
        "before": scores[0] if scores else None,
        "after": scores[1] if scores else None,
        "difference": made.difference,
        "written": [str(made.fp32), str(made.int8)],
    }
    return Answer(numbers, str(made))
