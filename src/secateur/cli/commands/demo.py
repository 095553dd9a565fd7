"""`secateur demo`: the main job on real data that ships with a dependency."""

from pathlib import Path
from typing import Annotated, Any

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.flatten import Like, Without
from secateur.cli.options import MachineOptions, ModelOptions, Save
from secateur.cli.slimming import run_slimming
from secateur.cli.terminal import Answer
from secateur.slimming import SlimConfig
from secateur.train import FitConfig

_RECIPE = {"batch_size": 32, "schedule": "cosine", "lr": 0.03}
_BY_RECIPE = ("dense", "sparse", "finetune", "strength", "latency_batch", "calibration_images")


def demo(
    slimming: Annotated[
        dict[str, Any],
        Like(SlimConfig, *_BY_RECIPE, "min_keep", "round_to", "resume", "overwrite", ratio=0.7),
    ],
    place: Annotated[MachineOptions, Without(threads=1)],
    save: Save = Path("demo"),
) -> Answer:
    """Slim a VGG-11 on scikit-learn's handwritten digits: train, prune 70 %, prove, fine-tune, report.

    Example: secateur demo --save demo
    """
    parts = DataOptions().open(place.seed)
    common = {**_RECIPE, **vars(place)}
    config = SlimConfig(
        dense=FitConfig(epochs=20, **common),
        sparse=FitConfig(epochs=30, keep="last", **common),
        finetune=FitConfig(epochs=10, **{**common, "lr": 0.01, "keep": "best-or-start"}),
        strength=0.015,
        **slimming,
        overwrite=True,  # of earlier demonstrations
    )
    opened = open_fitting(ModelOptions("zoo:vgg11", ("width=0.25",)), parts, place.seed)
    return run_slimming(opened, parts, config, title="VGG-11 on handwritten digits")
