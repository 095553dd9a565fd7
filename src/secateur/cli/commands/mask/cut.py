"""`secateur mask cut`: channels that masks have made superfluous are cut for real."""

from typing import Annotated

from secateur.bridge import plan_from_masks
from secateur.cli.flatten import Without
from secateur.cli.options import ComputeOptions, ExampleOptions, ModelOptions, TargetOptions
from secateur.cli.terminal import Answer, command_line
from secateur.mask import is_pruned
from secateur.mask import remove as bake
from secateur.pipeline import measure
from secateur.write.checkpoint import save_model


def cut(
    model: ModelOptions,
    target: TargetOptions,
    example: ExampleOptions,
    place: Annotated[ComputeOptions, Without("device")],
) -> Answer:
    """Cut every channel that is zero for every input or that nobody reads; no output changes.

    Example: secateur mask cut runs/masked --save runs/cut
    """
    target.require_free(model.model)
    opened = model.open(place.seed)
    if is_pruned(opened.model):
        bake(opened.model)
    inputs = example.of(opened)
    before = measure(opened.model, inputs)
    own = plan_from_masks(opened.model, inputs, seed=place.seed)
    small = own.apply(opened.model)
    plan = own.after(opened.plan).model_copy(update={"command": command_line()})
    folder = save_model(small, plan, target.save)
    after = measure(small, inputs)
    numbers = {
        "before": vars(before),
        "after": vars(after),
        "groups": {group.name: [group.size, len(group.keep)] for group in own.groups},
        "saved": str(folder),
    }
    return Answer(numbers, f"{own}\nbefore: {before}\nafter:  {after}\nwrote {folder}")
