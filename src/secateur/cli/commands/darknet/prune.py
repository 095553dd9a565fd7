"""`secateur darknet prune`: cut a detector by a strategy, prove it, write its cfg and weights."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import (
    BatchSize,
    CfgWord,
    DataWord,
    DataWords,
    Format,
    Images,
    Size,
    Strategy,
    Weights,
    image_side,
    input_of,
    open_network,
    plain_batches,
    save_network,
)
from secateur.cli.options import AsJson, Device, Save, Seed, emit, require_other_folder
from secateur.domains.darknet.data import Loader
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.domains.darknet.prune import DarknetPruned, prune_darknet
from secateur.errors import RequestError
from secateur.write.atomic import atomic_write


@verbs("prune")
def prune(
    cfg: CfgWord,
    save: Save,
    weights: Weights = None,
    strategy: Strategy = "normal",
    percent: Annotated[
        float, typer.Option(help="Share of the scales below the threshold; of the blocks for layers.")
    ] = 0.5,
    floor: Annotated[
        float | None,
        typer.Option(help="Share of each layer's channels that stays; the strategy's if absent."),
    ] = None,
    round_to: Annotated[
        int | None, typer.Option(min=1, help="Round kept channels up to a multiple, such as 8.")
    ] = None,
    merge: Annotated[
        str | None, typer.Option(help="How scales of one shortcut are joined: union, mean or first.")
    ] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="How many residual blocks go.")] = None,
    no_absorb: Annotated[
        bool, typer.Option("--no-absorb", help="Drop what removed channels answered constantly.")
    ] = False,
    recover: Annotated[
        str | None,
        typer.Option(help="More steps on training images: refit, batch-norm, or both with a comma."),
    ] = None,
    data: DataWord = "",
    format: Format = "yolo",
    images: Images = "1000,250",
    batch_size: BatchSize = 16,
    size: Size = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Leave out the proof.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Cut channels or blocks, prove that the network computes the same, and write .cfg and .weights.

    With --data, mAP is measured before and after on its part valid, and --recover works on its part train.

    Example: secateur darknet prune runs/sparse --strategy slim --percent 0.5 --data digits --save runs/pruned
    """
    require_other_folder(cfg, save)
    model = open_network(cfg, weights, device)
    words = DataWords(data, format, images, seed)
    sides = input_of(model, size)
    steps = [step.strip() for step in (recover or "").split(",") if step.strip()]
    if steps and not data:
        raise RequestError("--recover needs images", do="pass --data, such as --data digits")
    pruned = prune_darknet(
        model,
        strategy,
        percent=percent,
        floor=floor,
        round_to=round_to,
        merge=merge,
        blocks=blocks,
        absorb=not no_absorb,
        recover=steps,
        check=not no_check,
        image_size=image_side(model, size),
        data=plain_batches(words, "train", sides, batch_size) if steps else None,
        seed=seed,
    )
    files = save_network(pruned.model, save)
    written = [str(file) for file in files]
    if pruned.plan is not None:
        atomic_write(save / "plan.json", pruned.plan.to_json().encode())
        written.append(str(save / "plan.json"))
    numbers, lines = _numbers(pruned), [str(pruned)]
    if data:
        before, after = _maps([model, pruned.model], plain_batches(words, "valid", sides, batch_size))
        numbers |= {"map50_before": before[0], "map50": after[0], "map_before": before[1], "map": after[1]}
        lines.append(f"mAP@0.5 {before[0]:.4f} -> {after[0]:.4f}, mAP {before[1]:.4f} -> {after[1]:.4f}")
    numbers["written"] = written
    emit(numbers, "\n".join([*lines, f"wrote {', '.join(written)}"]), as_json=as_json)


def _numbers(pruned: DarknetPruned) -> dict[str, Any]:
    verdict, ceiling = pruned.verdict, pruned.ceiling
    return {
        "strategy": pruned.strategy,
        "before": asdict(pruned.before),
        "after": asdict(pruned.after),
        "threshold": pruned.threshold,
        "threshold_ceiling": ceiling.threshold if ceiling else None,
        "percent_limit": ceiling.percent if ceiling else None,
        "removed_layers": list(pruned.removed),
        "filters": {row.layer: [row.before, row.after] for row in pruned.rows},
        "verdict": verdict.status if verdict else None,
        "relative_error": verdict.relative_error if verdict else None,
    }


def _maps(models: list[Darknet], batches: Loader) -> list[tuple[float, float]]:
    found = [evaluate_darknet(model, batches) for model in models]
    return [(each.map50, each.map) for each in found]
