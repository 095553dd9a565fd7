"""The default with data beside `l2` and the same recovery, at the same MACs, on both networks."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from real_weights_runs.detection import Photo, detect, letterbox
from real_weights_runs.detection_run import LOW, STEPS, Bench, compare
from real_weights_runs.encoder_run import Bench as Encoder
from real_weights_runs.sentences import CALIBRATION

LEFT = (0.9, 0.7, 0.5)
"""MACs that are left."""
CROP = 0.7
"""Side of a crop, of a photo's."""
TOGETHER = 4
"""Images or sentences of a batch."""

Methods = dict[str, Callable[[nn.Module, Any, float, Sequence[Any]], nn.Module]]
METHODS: Methods = {
    "l2, global, then absorb and refit": lambda model, example, left, data: (
        sc.recover(
            sc.prune(model, example, macs=left, criterion="l2", scope="global", check=False), data, STEPS
        ).model
    ),
    "default with data": lambda model, example, left, data: (
        sc.prune(model, example, macs=left, data=data, check=False).model
    ),
}


def run_default(cache: Path) -> dict[str, Any]:
    """Every budget with both methods on both networks."""
    return {"yolo": list(_detector(cache)), "minilm": list(_encoder(cache))}


def _detector(cache: Path) -> Iterator[dict[str, Any]]:
    """Half of the photos to choose and recover by, the other half to judge on; and the other way round."""
    bench = Bench(cache)
    for left in LEFT:
        for name, method in METHODS.items():
            start = time.process_time()
            halves = [method(bench.model, bench.example, left, _crops(bench.photos[at::2])) for at in (0, 1)]
            seconds = time.process_time() - start
            found = [detect(halves[1 - at % 2], photo, LOW) for at, photo in enumerate(bench.photos)]
            row = {"left": left, "method": name, "cpu_seconds": round(seconds)}
            yield _said("yolo", row | compare(bench.found, found) | {"objects": None})


def _crops(photos: Sequence[Photo]) -> list[Tensor]:
    """Each photo and four crops of it, as they are and mirrored, in batches."""
    images = []
    for photo in photos:
        height, width = (round(CROP * side) for side in photo.pixels.shape[-2:])
        top, left = photo.pixels.shape[-2] - height, photo.pixels.shape[-1] - width
        places = [(0, 0), (0, left), (top, 0), (top, left)]
        parts = [photo.pixels[:, y : y + height, x : x + width] for y, x in places]
        images += [letterbox(part) for part in (photo.pixels, *parts)]
    images += [image.flip(-1) for image in images]
    return [torch.cat(images[at : at + TOGETHER]) for at in range(0, len(images), TOGETHER)]


def _encoder(cache: Path) -> Iterator[dict[str, Any]]:
    bench = Encoder(cache)
    starts = range(0, len(CALIBRATION), TOGETHER)
    data = [bench.tokenise(CALIBRATION[at : at + TOGETHER]) for at in starts]
    for left in LEFT:
        for name, method in METHODS.items():
            start = time.process_time()
            model = method(bench.model, bench.example, left, data)
            row = {"left": left, "method": name, "cpu_seconds": round(time.process_time() - start)}
            yield _said("minilm", row | bench.judge(model))


def _said(part: str, row: dict[str, Any]) -> dict[str, Any]:
    print(part, row, file=sys.stderr, flush=True)
    return row
