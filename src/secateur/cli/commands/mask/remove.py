"""`secateur mask remove`: bake masks in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import save_file

from secateur.cli.options import ModelOptions, TargetOptions
from secateur.cli.terminal import Answer
from secateur.errors import RequestError
from secateur.mask import baked, report
from secateur.mask import remove as bake
from secateur.mask.state import masked_names
from secateur.write.atomic import atomic_write
from secateur.write.checkpoint import read_state, save_model


@dataclass(frozen=True)
class MaskedModelOptions(ModelOptions):
    """What has masks.

    Attributes:
        model: Folder that `mask prune` saved, or a state dict: .pth, .safetensors.
    """


def remove(
    model: MaskedModelOptions,
    target: TargetOptions,
    packed: Annotated[bool, typer.Option("--packed/--no-packed", help="Save only what is not zero.")] = False,
) -> Answer:
    """Bake masks in: weights times masks become the weights.

    A state dict that holds `weight_orig` and `weight_mask`, as torch.nn.utils.prune leaves them, becomes one
    that holds `weight`, saved as a .safetensors file.

    Example: secateur mask remove runs/masked --save runs/baked
    """
    if Path(model.model).is_file():
        return _remove_from_file(Path(model.model), target.save)
    target.require_free(model.model)
    opened = model.open(seed=0)
    bake(opened.model)
    folder = save_model(opened.model, opened.plan, target.save, packed=packed)
    found = report(opened.model)
    return Answer({**found.to_json(), "saved": str(folder)}, f"{found}\nwrote {folder}")


def _remove_from_file(source: Path, save: Path) -> Answer:
    state = read_state(source)
    names = masked_names(state)
    if not names:
        raise RequestError(
            f"{source} holds no masks", do="name a state dict with weight_orig and weight_mask, or a folder"
        )
    if save.suffix != ".safetensors":
        raise RequestError(f"--save is {save}", do="name a .safetensors file: a state dict was given")
    plain = {name: tensor.contiguous() for name, tensor in baked(state).items()}
    atomic_write(save, lambda file: save_file(plain, file, {"format": "pt"}))
    zeros = sum(int((plain[name] == 0).sum()) for name in names)
    size = sum(plain[name].numel() for name in names)
    numbers = {"tensors": names, "sparsity": zeros / max(size, 1), "saved": str(save)}
    text = f"{len(names)} masks baked in, {zeros / max(size, 1):.2%} zeros\nwrote {save}"
    return Answer(numbers, text)
