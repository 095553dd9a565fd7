"""What `darknet train` and `darknet finetune` share: data, recipe, training, files, the last word."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.darknet import SceneOptions, input_of, open_network, save_network
from secateur.cli.flatten import Like, Unset
from secateur.cli.terminal import Answer, say
from secateur.domains.darknet import Darknet, save_darknet
from secateur.domains.darknet.data import Augmentation, loader, multi_scale
from secateur.domains.darknet.fit import Teaching, fit_detector
from secateur.domains.darknet.layers import input_place
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.domains.darknet.recipe import DetectorFitConfig
from secateur.train.device import require_one_process


@dataclass(frozen=True)
class TeacherOptions:
    """A network to learn from.

    Attributes:
        teacher: Network to learn from: a cfg, or a folder of cfg and weights.
        teacher_weights: The teacher's .weights.
    """

    teacher: str | None = None
    teacher_weights: Path | None = None

    def open(self, device: str) -> Darknet | None:
        """Open it, if there is one."""
        return open_network(self.teacher, self.teacher_weights, device) if self.teacher else None


@dataclass(frozen=True)
class LoadingOptions(SceneOptions):
    """A data set in batches that are trained on.

    Attributes:
        batch_size: Images per batch; default: the cfg's batch.
        multi_scale: Change the input size every ten batches.
        workers: Processes that prepare batches.
    """

    batch_size: Annotated[int | None, typer.Option(min=2)] = None
    multi_scale: bool = False
    workers: int = 0


_OF_THE_CFG = ("epochs", "subdivisions", "lr", "policy", "burn_in", "momentum", "decay", "box_loss")

_OTHERWISE = (
    "steps", "scales", "keep", "schedule", "weight_decay", "kernels_only", "batch_size",
    "evaluation_batch_size",
    "workers", "pin_memory", "tensorboard",
)  # fmt: skip
"""What the cfg, the loader or other options say."""


def like_recipe(**defaults: Any) -> Like:
    """Options for arguments of `DetectorFitConfig.of_cfg`; the cfg says what is not given."""
    usual = dict.fromkeys(_OF_THE_CFG, Unset("the cfg's"))
    return Like(DetectorFitConfig, *_OTHERWISE, **{**usual, **defaults})


def run_training(
    model: Darknet, scenes: LoadingOptions, training: Mapping[str, Any], teaching: Teaching
) -> Answer:
    """Train, write the network's cfg and weights, and tell what came out.

    Args:
        model: The network to start from.
        scenes: What to train on.
        training: How: arguments of `DetectorFitConfig.of_cfg`.
        teaching: Sparse training, a teacher.
    """
    require_one_process()
    size = input_of(model, scenes.size)
    annotations = scenes.open(size)
    say(str(annotations))
    config = model.config
    batch = scenes.batch_size or input_place(config).integer("batch", 64, least=1)
    train = loader(
        annotations["train"],
        annotations.names,
        size,
        batch,
        training=True,
        augmentation=Augmentation.of_cfg(config.net.options),
        sizes=multi_scale(size) if scenes.multi_scale else (),
        seed=training["seed"],
        workers=scenes.workers,
    )
    # Not every data set has a part to choose the best epoch by.
    has_valid = bool(annotations.parts.get("valid"))
    valid = loader(annotations["valid"], annotations.names, size, min(batch, 50)) if has_valid else None
    recipe = DetectorFitConfig.of_cfg(config, len(train), **training)
    say(f"{train}; {recipe.epochs} epochs, lr {recipe.lr:g} ({recipe.schedule}, {recipe.optimizer})")
    trained = fit_detector(
        model,
        train,
        valid,
        recipe,
        teaching,
        on_checkpoint=lambda folder, network: _write(network, folder),
    )
    cfg, weights = save_network(trained.model, training["save"])
    numbers = {**trained.numbers(), "cfg": str(cfg), "weights": str(weights)}
    lines = [str(trained)]
    if teaching.sparsity is not None:
        share = teaching.sparsity.near_zero(trained.model)
        numbers["pulled_near_zero_share"] = share
        lines.append(f"{share:.1%} of the pulled batch-norm scales are near zero: about what may be pruned")
    if valid is not None:
        found = evaluate_darknet(trained.model, valid, threads=recipe.threads)
        numbers["per_class"] = found.per_class
        lines.append(str(found))
    return Answer(numbers, "\n".join([*lines, f"wrote {cfg} and {weights}"]))


def _write(model: Darknet, folder: Path) -> None:
    save_darknet(model, folder / Path(model.config.name).stem)
