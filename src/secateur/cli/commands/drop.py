"""`secateur drop`: drop residual blocks of a model, prove it, save it."""

from dataclasses import dataclass

from secateur.cli.options import ComputeOptions, ExampleOptions, TargetOptions, WeightedModelOptions
from secateur.cli.terminal import Answer, command_line
from secateur.depth import drop_blocks
from secateur.write.checkpoint import save_model


@dataclass(frozen=True)
class DropOptions:
    """Which blocks go.

    Attributes:
        count: How many blocks to drop.
        ratio: Share of the blocks to drop instead.
        blocks: Pattern of modules to choose from, 'layer3.*'; may be repeated.
        criterion: bn-scale, l1, l2 or random.
        protect: Pattern of blocks that stay; may be repeated.
        check: Prove what the dropped model computes.
    """

    count: int | None = None
    ratio: float | None = None
    blocks: tuple[str, ...] = ()
    criterion: str = "l2"
    protect: tuple[str, ...] = ()
    check: bool = True


def drop(
    model: WeightedModelOptions,
    target: TargetOptions,
    dropping: DropOptions,
    example: ExampleOptions,
    place: ComputeOptions,
) -> Answer:
    """Drop the least important residual blocks of a model, prove the result and save it.

    Example: secateur drop torchvision:resnet50 --weights resnet50.pth --count 4 --save runs/shallow
    """
    target.require_free(model.model)
    opened = model.open(place.seed, place.device)
    result = drop_blocks(
        opened.model,
        example.of(opened),
        count=dropping.count,
        ratio=dropping.ratio,
        blocks=dropping.blocks or None,
        criterion=dropping.criterion,
        protect=dropping.protect,
        check=dropping.check,
        seed=place.seed,
    )
    plan = result.plan.after(opened.plan).model_copy(update={"command": command_line()})
    folder = save_model(result.model, plan, target.save)
    verdict = result.verdict
    numbers = {
        "requested": str(plan.requested),
        "dropped": list(plan.dropped),
        "scores": dict(result.scores),
        "before": vars(result.before),
        "after": vars(result.after),
        "verdict": verdict.status if verdict else None,
        "relative_error": verdict.relative_error if verdict else None,
        "left_alone": dict(result.reasons),
        "saved": str(folder),
    }
    return Answer(numbers, f"{result}\nwrote {folder}")
