"""YOLOv3-tiny with the official COCO weights: what pruning does to the objects on seven photos."""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from real_weights_runs.detection import (
    THRESHOLD,
    Found,
    Photo,
    average_precision,
    detect,
    find,
    match,
    overlap,
    run_darknet,
)
from real_weights_runs.fetch import YOLO, fetch, find_photos
from real_weights_runs.yolo_tiny import CLASSES, load_yolo
from secateur.domains.darknet import Darknet

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
FIRST = ("layers.0.*", "layers.2.*", "layers.4.*")
"""The first three convolutions."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {"criterion": "l2", "scope": "global"},
    {"criterion": "l2", "scope": "global", "protect": FIRST},
    {"criterion": "l2", "scope": "local"},
    {"criterion": "bn-scale", "scope": "global"},
    {"criterion": "random", "scope": "local"},
)
RECOVERED = (0.02, 0.05, 0.1)
"""Ratios at which recovery is tried; beyond them too little is left to recover."""
STEPS = ("absorb", "refit")
BUDGETS = ({"params": 0.9}, {"params": 0.5}, {"macs": 0.9}, {"macs": 0.5})
LOW = 0.01
"""Confidence from which objects count in the average precision."""
SAVED = 0.2
"""Ratio of the model that is saved and loaded."""
ROUNDS = 10
"""Latencies are the best of so many medians of three passes."""


class Bench:
    """The dense model, the photos, and what the dense model finds on them."""

    def __init__(self, cache: Path) -> None:
        self.folder = fetch(YOLO, cache)
        self.names = (self.folder / "coco.names").read_text().split("\n")
        self.paths = find_photos(cache)
        self.photos = [Photo.read(path) for path in self.paths]
        self.model = load_yolo(self.folder)
        self.example = self.photos[0].image
        self.found, self.maps = self.look(self.model)

    def look(self, model: nn.Module) -> tuple[list[list[Found]], list[Tensor]]:
        """The objects on each photo, from the low confidence on, and the maps that they are decoded from.

        The maps are one tensor for each scale, all photos together.
        """
        with torch.inference_mode():
            seen = [model(photo.image) for photo in self.photos]
        found = [
            find(maps, self.model.heads, photo, LOW) for maps, photo in zip(seen, self.photos, strict=True)
        ]
        return found, [torch.cat(scale) for scale in zip(*seen, strict=True)]

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """Compare what a model sees with what the dense one does."""
        found, maps = self.look(model)
        return compare(self.found, found) | {"map_error": self.map_error(maps), **self.objectness(maps)}

    def map_error(self, maps: Sequence[Tensor]) -> float:
        """Mean squared error of the maps over their variance; 1 is as bad as a constant."""
        pairs = zip(maps, self.maps, strict=True)
        return statistics.mean(float((own - dense).square().mean() / dense.var()) for own, dense in pairs)

    def objectness(self, maps: Sequence[Tensor]) -> dict[str, float]:
        """Mean change of the objectness before the sigmoid, where the dense network is sure and elsewhere."""
        own, dense = _objectness(maps), _objectness(self.maps)
        is_object = dense.sigmoid() > THRESHOLD
        change = own - dense
        return {"at_objects": float(change[is_object].mean()), "elsewhere": float(change[~is_object].mean())}


def _objectness(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.unflatten(1, (-1, 5 + CLASSES))[:, :, 4].flatten() for one in maps])


def sure(found: Sequence[Found]) -> list[Found]:
    """Those that count as found."""
    return [one for one in found if one.confidence > THRESHOLD]


def compare(dense: list[list[Found]], pruned: list[list[Found]]) -> dict[str, Any]:
    """How the objects of one model agree with those of another, over all photos."""
    truth = [sure(found) for found in dense]
    photos = [match(known, sure(found)) for known, found in zip(truth, pruned, strict=True)]
    kept = [(one, other) for pairs in photos for one, other in pairs if other is not None]
    return {
        "kept": len(kept),
        "of": sum(map(len, truth)),
        "new": sum(len(sure(found)) for found in pruned) - len(kept),
        "mean_iou": mean([overlap(one, other) for one, other in kept]),
        "confidence_change": mean([other.confidence - one.confidence for one, other in kept]),
        "average_precision": average_precision(truth, pruned),
        "objects": [[as_cell(one, other) for one, other in pairs] for pairs in photos],
    }


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return statistics.mean(values) if values else None


def as_cell(one: Found, other: Found | None) -> list[float] | None:
    """Confidence, and overlap with the dense box; None where the object was lost."""
    return None if other is None else [round(other.confidence, 3), round(overlap(one, other), 3)]


def run_detection(cache: Path) -> dict[str, Any]:
    """Everything that is measured on YOLOv3-tiny."""
    bench = Bench(cache)
    cost = sc.measure(bench.model, bench.example)
    rows = [row for each in (sweep(bench), budgets(bench)) for row in each]
    return {
        "photos": [photo.name for photo in bench.photos],
        "threshold": THRESHOLD,
        "params": cost.params,
        "macs": cost.macs,
        "darknet": beside_darknet(bench),
        "dense": [
            [[bench.names[one.kind], round(one.confidence, 3)] for one in sure(found)]
            for found in bench.found
        ],
        "rows": rows,
        "saved": save_and_load(bench),
    }


def beside_darknet(bench: Bench) -> dict[str, Any] | str:
    """How far the dense model is from the `darknet` program; a reason if that is not installed."""
    theirs = run_darknet(bench.folder, bench.paths, LOW)
    if theirs is None:
        return "not compared: no darknet on the path"
    pairs = [pair for known, own in zip(theirs, bench.found, strict=True) for pair in match(known, own)]
    both = [(one, other) for one, other in pairs if other is not None]
    return {
        "objects": len(pairs),
        "ours": sum(map(len, bench.found)),
        "matched": len(both),
        "largest_confidence_difference": max(abs(one.confidence - other.confidence) for one, other in both),
        "smallest_iou": min(overlap(one, other) for one, other in both),
    }


def sweep(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every ratio with every setting; the default one timed, some also recovered."""
    for setting in SETTINGS:
        for ratio in RATIOS:
            result, row = prune(bench, {"ratio": ratio}, setting)
            if setting is SETTINGS[0]:
                row |= paired_latency(bench.model, result.model, bench.example)
            yield row | {"recover": "none"} | bench.judge(result.model)
            if setting["criterion"] == "l2" and "protect" not in setting and ratio in RECOVERED:
                yield from recovered(bench, result, row)


def recovered(bench: Bench, result: sc.Result, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same cut with `absorb` and no data, and with `refit` by the photos themselves and by the others."""
    images = [photo.image for photo in bench.photos]
    yield row | {"recover": "absorb"} | bench.judge(sc.recover(result, steps="absorb").model)
    yield row | {"recover": "refit, these photos"} | bench.judge(sc.recover(result, images, STEPS).model)
    halves = [sc.recover(result, images[start::2], STEPS).model for start in (0, 1)]
    found = [detect(halves[1 - index % 2], photo, LOW) for index, photo in enumerate(bench.photos)]
    yield row | {"recover": "refit, other photos"} | compare(bench.found, found)


def budgets(bench: Bench) -> Iterator[dict[str, Any]]:
    """Budgets of parameters and MACs instead of a ratio."""
    for budget in BUDGETS:
        result, row = prune(bench, budget, SETTINGS[0])
        yield row | {"recover": "none"} | bench.judge(result.model)


def prune(
    bench: Bench, budget: dict[str, float], setting: dict[str, Any]
) -> tuple[sc.Result, dict[str, Any]]:
    """One call of the library, and what it reports."""
    start = time.process_time()
    result = sc.prune(bench.model, bench.example, **budget, **setting, check=True)
    seconds = time.process_time() - start
    ((kind, value),) = budget.items()
    print(f"yolo {kind}={value} {setting}: {result.verdict}", file=sys.stderr, flush=True)
    key = {"budget": kind, "value": value, "protect": [], **setting}
    return result, {**key, "cpu_seconds": round(seconds, 2), **costs(result), "widths": widths(result.plan)}


def widths(plan: sc.Plan) -> dict[str, list[int]]:
    """Channels that are left of each group, and that it had."""
    return {group.name: [len(group.keep), group.size] for group in plan.groups}


def costs(result: sc.Result) -> dict[str, Any]:
    """What is left, and the proof."""
    assert result.verdict is not None, "a check was asked for"
    return {
        "params": result.after.params,
        "macs": result.after.macs,
        "params_left": round(result.after.params / result.before.params, 4),
        "macs_left": round(result.after.macs / result.before.macs, 4),
        "verdict": result.verdict.status,
        "relative_error": result.verdict.relative_error,
    }


def paired_latency(dense: nn.Module, pruned: nn.Module, example: Any) -> dict[str, float]:
    """The fastest of several short rounds, both models in turns: the machine may be busy."""
    best = {"dense_latency_ms": math.inf, "latency_ms": math.inf}
    for _ in range(ROUNDS):
        for name, model in zip(best, (dense, pruned), strict=True):
            best[name] = min(best[name], sc.latency(model, example, repeats=3, warmup=1).median_ms)
    return {name: round(milliseconds, 1) for name, milliseconds in best.items()}


def save_and_load(bench: Bench) -> dict[str, Any]:
    """Save a pruned model, load it into the untouched architecture, and compare what both compute."""
    result = sc.prune(bench.model, bench.example, ratio=SAVED)
    with tempfile.TemporaryDirectory() as folder:
        sc.save(result, folder)
        loaded = sc.load(folder, Darknet(bench.folder / "yolov3-tiny.cfg")).eval()
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    with torch.inference_mode():
        same = all(
            torch.equal(ours, theirs)
            for photo in bench.photos
            for ours, theirs in zip(loaded(photo.image), result.model(photo.image), strict=True)
        )
    original = (bench.folder / "yolov3-tiny.weights").stat().st_size
    return {"ratio": SAVED, "bit_equal": same, "original_bytes": original, "file_bytes": sizes}
