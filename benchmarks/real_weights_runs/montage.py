"""One photo with what the dense and the pruned detectors see on it, side by side."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import Rectangle

import secateur as sc
from real_weights_runs.detection import Found, detect
from real_weights_runs.detection_run import Bench

PHOTO = "dog"
RATIOS = (0.0, 0.05, 0.2, 0.5)
SHOWN = 25
"""Boxes drawn at most, the surest."""


def draw(cache: Path) -> bytes:
    """The montage as a JPEG."""
    bench = Bench(cache)
    photo = next(photo for photo in bench.photos if photo.name == PHOTO)
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7.2), layout="constrained")
    for ratio, area in zip(RATIOS, axes.flat, strict=True):
        model = sc.prune(bench.model, bench.example, ratio=ratio).model if ratio else bench.model
        found = detect(model, photo)
        title = f"{ratio:.0%} of the channels cut" if ratio else "dense"
        more = f", the surest {SHOWN} drawn" if len(found) > SHOWN else ""
        area.set_title(f"{title}: {len(found)} objects{more}", fontsize=10)
        area.imshow(photo.pixels.permute(1, 2, 0).numpy())
        area.set_axis_off()
        for one in reversed(found[:SHOWN]):
            _outline(area, one, bench.names[one.kind])
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=100, pil_kwargs={"quality": 80})
    pyplot.close(figure)
    return file.getvalue()


def _outline(area: pyplot.Axes, one: Found, name: str) -> None:
    left, top, right, bottom = one.box
    colour = f"C{one.kind % 10}"
    area.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=1.5)
    )
    label = {"facecolor": colour, "edgecolor": "none", "pad": 1}
    area.text(left, max(top, 18), f"{name} {one.confidence:.2f}", color="white", fontsize=7, bbox=label)
