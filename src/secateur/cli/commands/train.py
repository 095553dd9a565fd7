"""`secateur train`: train a network, plainly or sparse."""

from typing import Annotated

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.flatten import Without
from secateur.cli.options import MachineOptions, ModelOptions, Save, require_other_folder
from secateur.cli.terminal import Answer
from secateur.cli.training import Session, SparsityOptions, run_training
from secateur.train import FitConfig


def train(
    model: ModelOptions,
    save: Save,
    data: DataOptions,
    config: Annotated[FitConfig, Without("keep", epochs=160)],
    sparsity: SparsityOptions,
    place: MachineOptions,
) -> Answer:
    """Train a network; with --sparsity its unneeded channels are driven to zero.

    bn-l1 pulls the batch-norm scales, group-lasso whole channels with all that goes along, growing-l2 the
    share of channels that --ratio names, ever harder.

    Example: secateur train zoo:vgg11 --data digits --arg width=0.25 --epochs 30 --lr 0.03
    --schedule cosine --sparsity bn-l1 --s 0.015 --save runs/sparse
    """
    require_other_folder(model.model, save)
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed)
    return run_training(Session(opened, parts, config, sparsity))
