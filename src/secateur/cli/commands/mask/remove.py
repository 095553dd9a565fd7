"""`secateur mask remove`: bake masks in."""

from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import save_file

from secateur.cli.commands.mask import verbs
from secateur.cli.options import (
    AsJson,
    ModelArguments,
    Save,
    emit,
    model_arguments,
    open_placed,
    require_other_folder,
)
from secateur.errors import RequestError
from secateur.mask import baked, report
from secateur.mask import remove as bake
from secateur.write.atomic import atomic_write
from secateur.write.checkpoint import read_state, save_model
from secateur.write.masked import masked_names


@verbs("remove")
def remove(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder that `mask prune` saved, or a state dict: .pth, .safetensors."
        ),
    ],
    save: Save,
    arg: ModelArguments = None,
    packed: Annotated[bool, typer.Option(help="Save only what is not zero.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bake masks in: weights times masks become the weights.

    A state dict that holds `weight_orig` and `weight_mask`, as torch.nn.utils.prune leaves them, becomes one
    that holds `weight`, saved as a .safetensors file.

    Example: secateur mask remove runs/masked --save runs/baked
    """
    if Path(model).is_file():
        _remove_from_file(Path(model), save, as_json)
        return
    require_other_folder(model, save)
    opened = open_placed(model, model_arguments(arg), 0, "cpu")
    bake(opened.model)
    folder = save_model(opened.model, opened.plan, save, packed=packed)
    found = report(opened.model)
    emit({**found.to_json(), "saved": str(folder)}, f"{found}\nwrote {folder}", as_json=as_json)


def _remove_from_file(source: Path, save: Path, as_json: bool) -> None:
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
    emit(numbers, text, as_json=as_json)
