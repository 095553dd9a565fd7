"""`secateur inspect`: which channels of a model belong together, and what is protected and why."""

from typing import Annotated, Any

from secateur.cli.asking import AskOptions, all_but, read_words
from secateur.cli.flatten import Like
from secateur.cli.options import ComputeOptions, ModelOptions, OutputOptions
from secateur.cli.terminal import Answer
from secateur.costs import cost_of
from secateur.pipeline import couple


def inspect(
    model: ModelOptions,
    outputs: OutputOptions,
    asked: Annotated[dict[str, Any], Like(AskOptions, *all_but("protect", "axes", "state", "outputs"))],
    place: ComputeOptions,
) -> Answer:
    """Show which channels belong together, and what is protected and why.

    Example: secateur inspect torchvision:resnet18 --protect 'layer4.*'
    """
    opened = model.open(place.seed, place.device)
    groups = couple(opened.model, outputs.of(opened), **read_words(asked))
    cost = cost_of(opened.model, groups)
    numbers = {
        "model": model.model,
        "params": cost.params,
        "macs": cost.macs,
        "size_bytes": cost.size_bytes,
        "memory_bytes": cost.memory_bytes,
        "nodes": len(groups.graph.nodes),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "members": [str(member) for member in group.members],
                "prunable": group.is_prunable,
                "reason": group.reason,
                "renormalised": group.renormalised,
            }
            for group in groups
        ],
    }
    return Answer(numbers, f"{groups}\n{cost}")
