"""What `darknet train` and `darknet finetune` share: data, recipe, training, files, the last word."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.cli.darknet import DataWords, input_of, save_network
from secateur.cli.options import emit, say
from secateur.domains.darknet import Darknet, save_darknet
from secateur.domains.darknet.data import Augmentation, loader, multi_scale
from secateur.domains.darknet.fit import Teaching, fit_detector
from secateur.domains.darknet.layers import input_place
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.domains.darknet.recipe import Recipe

__all__ = ["Training", "run_training"]


@dataclass(frozen=True)
class Training:
    """One training from the command line.

    Attributes:
        model: The network to start from.
        data: What to train on.
        save: Folder for checkpoints and the result.
        batch_size: Images per batch; None takes the cfg's.
        size: `--size`.
        multi_scale: Change the input size every ten batches.
        workers: Processes that prepare batches.
        settings: Arguments of `Recipe.of_cfg`.
        teaching: Sparse training, a teacher.
    """

    model: Darknet
    data: DataWords
    save: Path
    batch_size: int | None = None
    size: str | None = None
    multi_scale: bool = False
    workers: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    teaching: Teaching = field(default_factory=Teaching)


def run_training(training: Training, *, as_json: bool) -> None:
    """Train, write the network's cfg and weights, and print what came out."""
    model, size = training.model, input_of(training.model, training.size)
    annotations = training.data.open(size)
    say(str(annotations))
    config = model.config
    batch = training.batch_size or input_place(config).integer("batch", 64, least=1)
    seed = int(training.settings.get("seed") or 0)
    train = loader(
        annotations["train"],
        annotations.names,
        size,
        batch,
        training=True,
        augmentation=Augmentation.of_cfg(config.net.options),
        sizes=multi_scale(size) if training.multi_scale else (),
        seed=seed,
        workers=training.workers,
    )
    # Not every data set has a part to choose the best epoch by.
    has_valid = bool(annotations.parts.get("valid"))
    valid = loader(annotations["valid"], annotations.names, size, min(batch, 50)) if has_valid else None
    recipe = Recipe.of_cfg(config, len(train), save=training.save, **training.settings)
    say(f"{train}; {recipe.epochs} epochs, lr {recipe.lr:g} ({recipe.policy}, {recipe.optimizer})")
    trained = fit_detector(
        model,
        train,
        valid,
        recipe,
        training.teaching,
        on_checkpoint=lambda folder, network: _write(network, folder),
    )
    cfg, weights = save_network(trained.model, training.save)
    numbers = {**trained.numbers(), "cfg": str(cfg), "weights": str(weights)}
    lines = [str(trained)]
    if training.teaching.sparsity is not None:
        share = training.teaching.sparsity.near_zero(trained.model)
        numbers["pulled_near_zero_share"] = share
        lines.append(f"{share:.1%} of the pulled batch-norm scales are near zero: about what may be pruned")
    if valid is not None:
        found = evaluate_darknet(trained.model, valid, threads=recipe.threads)
        numbers["per_class"] = found.per_class
        lines.append(str(found))
    emit(numbers, "\n".join([*lines, f"wrote {cfg} and {weights}"]), as_json=as_json)


def _write(model: Darknet, folder: Path) -> None:
    save_darknet(model, folder / Path(model.config.name).stem)
