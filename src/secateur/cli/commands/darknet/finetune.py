"""`secateur darknet finetune`: train a network on that was pruned."""

from typing import Annotated, Any

from secateur.cli.darknet import NetworkOptions
from secateur.cli.detectors import LoadingOptions, TeacherOptions, like_recipe, run_training
from secateur.cli.flatten import Unset
from secateur.cli.options import MachineOptions, Save, require_other_folder
from secateur.cli.terminal import Answer
from secateur.domains.darknet.fit import Teaching
from secateur.domains.darknet.layers import input_place


def finetune(
    network: NetworkOptions,
    save: Save,
    scenes: LoadingOptions,
    training: Annotated[
        dict[str, Any], like_recipe(epochs=10, lr=Unset("half of the cfg's"), policy="cosine", burn_in=0.0)
    ],
    teacher: TeacherOptions,
    place: MachineOptions,
) -> Answer:
    """Train a pruned network on, without warm-up and along half a cosine; with --teacher, distil.

    Where no epoch is better than the network that came in, its weights stay.

    Example: secateur darknet finetune runs/pruned --epochs 4 --teacher runs/dense --save runs/tuned
    """
    require_other_folder(network.cfg, save)
    model = network.open(place.device)
    if training["lr"] is None:
        training["lr"] = input_place(model.config).number("learning_rate", 0.001) / 2
    teaching = Teaching(teacher=teacher.open(place.device))
    return run_training(model, scenes, {**training, "keep": "best-or-start"}, teaching)
