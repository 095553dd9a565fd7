"""`secateur darknet quantise`: INT8 after pruning, with mAP, size and time before and after."""

from dataclasses import asdict
from typing import Annotated

import torch
import typer
from torch import nn

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import (
    BatchSize,
    CfgWord,
    DataWord,
    DataWords,
    Format,
    Images,
    Size,
    Weights,
    image_side,
    input_of,
    open_network,
    plain_batches,
)
from secateur.cli.options import AsJson, Save, Seed, Threads, emit
from secateur.domains.darknet.evaluate import Evaluation
from secateur.domains.darknet.evaluate import evaluate as run_evaluate
from secateur.domains.darknet.predict import predictor
from secateur.domains.darknet.quantise import quantise as run_quantise


@verbs("quantise")
def quantise(
    cfg: CfgWord,
    save: Save,
    weights: Weights = None,
    data: DataWord = "digits",
    format: Format = "yolo",
    images: Images = "1000,250",
    calibration: Annotated[int, typer.Option(min=1, help="Training images to calibrate on.")] = 128,
    method: Annotated[str, typer.Option(help="minmax or percentile.")] = "minmax",
    quantise_heads: Annotated[
        bool, typer.Option("--quantise-heads", help="The convolutions before the yolo layers too.")
    ] = False,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="7 bits for weights: x86 processors without VNNI.")
    ] = False,
    batch_size: BatchSize = 16,
    size: Size = None,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Quantise to INT8 by ONNX Runtime, calibrated on training images; mAP, size and time before and after.

    Example: secateur darknet quantise runs/tuned --data digits --save runs/int8
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model = open_network(cfg, weights, "cpu")
    words, sides = DataWords(data, format, images, seed), input_of(model, size)
    train, valid = (plain_batches(words, part, sides, batch_size) for part in ("train", "valid"))

    def evaluate(maps: nn.Module) -> Evaluation:
        return run_evaluate(predictor(model, maps), valid)

    made = run_quantise(
        model,
        save,
        train,
        evaluate,
        images=calibration,
        method=method,
        heads_in_float=not quantise_heads,
        reduce_range=reduce_range,
        image_size=image_side(model, size),
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
    emit(numbers, str(made), as_json=as_json)
