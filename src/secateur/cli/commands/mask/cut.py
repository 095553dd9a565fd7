"""`secateur mask cut`: channels that masks have made superfluous are cut for real."""

import typer

from secateur.bridge import plan_from_masks
from secateur.cli.commands.mask import verbs
from secateur.cli.options import (
    AsJson,
    InputShape,
    ModelArguments,
    Save,
    Seed,
    command_line,
    emit,
    example_input,
    model_arguments,
    open_placed,
    require_other_folder,
)
from secateur.mask import is_pruned
from secateur.mask import remove as bake
from secateur.pipeline import measure
from secateur.write.checkpoint import save_model


@verbs("cut")
def cut(
    save: Save,
    model: str = typer.Argument(metavar="MODEL", help="Folder of a masked model, or of one with zeros."),
    arg: ModelArguments = None,
    input_shape: InputShape = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Cut every channel that is zero for every input or that nobody reads; no output changes.

    Example: secateur mask cut runs/masked --save runs/cut
    """
    require_other_folder(model, save)
    opened = open_placed(model, model_arguments(arg), seed, "cpu")
    if is_pruned(opened.model):
        bake(opened.model)
    example = example_input(input_shape, opened)
    before = measure(opened.model, example)
    own = plan_from_masks(opened.model, example, seed=seed)
    small = own.apply(opened.model)
    plan = own.after(opened.plan).model_copy(update={"command": command_line()})
    folder = save_model(small, plan, save)
    after = measure(small, example)
    numbers = {
        "before": vars(before),
        "after": vars(after),
        "groups": {group.name: [group.size, len(group.keep)] for group in own.groups},
        "saved": str(folder),
    }
    emit(numbers, f"{own}\nbefore: {before}\nafter:  {after}\nwrote {folder}", as_json=as_json)
