"""`secateur darknet train`: train a detector, plainly, sparse or from a teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.darknet import NetworkOptions
from secateur.cli.detectors import LoadingOptions, TeacherOptions, like_recipe, run_training
from secateur.cli.options import MachineOptions, Save, require_other_folder
from secateur.cli.terminal import Answer, say
from secateur.domains.darknet.fit import Teaching
from secateur.domains.darknet.sparsity import sparsity_for
from secateur.domains.darknet.start import expect_nothing
from secateur.domains.darknet.transfer import transfer as transfer_weights


@dataclass(frozen=True)
class TransferOptions:
    """What the network is before it is trained.

    Attributes:
        transfer: Start from what fits of this file, such as darknet53.conv.74.
        transfer_cfg: The cfg of --transfer, if it is another network's.
    """

    transfer: Path | None = None
    transfer_cfg: Path | None = None


@dataclass(frozen=True)
class SparseTrainingOptions:
    """Sparse training.

    Attributes:
        sparsity: Pull the scales that --strategy prunes to zero this hard.
        sparsity_schedule: constant, global-decay or local-decay.
        strategy: normal, regular, extreme, tiny, slim, layers or layers+channels.
    """

    sparsity: Annotated[float, typer.Option(min=0.0)] = 0.0
    sparsity_schedule: str = "constant"
    strategy: str = "normal"


def train(
    network: NetworkOptions,
    save: Save,
    start: TransferOptions,
    scenes: LoadingOptions,
    training: Annotated[dict[str, Any], like_recipe()],
    sparse: SparseTrainingOptions,
    teacher: TeacherOptions,
    place: MachineOptions,
) -> Answer:
    """Train a detector; what the cfg's [net] says holds unless an option says otherwise.

    Example: secateur darknet train digits --data digits --epochs 8 --policy cosine --save runs/dense
    """
    require_other_folder(network.cfg, save)
    model = network.open(place.device, seed=place.seed, needs_weights=False)
    if network.weights is None and not Path(network.cfg).is_dir():
        expect_nothing(model)
    if start.transfer is not None:
        say(str(transfer_weights(model, start.transfer, start.transfer_cfg)))
    pulled = sparse.sparsity
    teaching = Teaching(
        sparsity_for(model, sparse.strategy, pulled, sparse.sparsity_schedule) if pulled else None,
        teacher.open(place.device),
    )
    # The last weights of sparse training are the sparsest.
    return run_training(model, scenes, {**training, "keep": "last" if pulled else "best"}, teaching)
