"""`secateur darknet prune`: cut a detector by a strategy, prove it, write its cfg and weights."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from secateur.cli.darknet import BatchOptions, NetworkOptions, image_side, save_network
from secateur.cli.flatten import Without
from secateur.cli.options import ComputeOptions, Save, require_other_folder
from secateur.cli.terminal import Answer
from secateur.domains.darknet.data import Loader
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.domains.darknet.prune import DarknetPruned, prune_darknet
from secateur.errors import RequestError
from secateur.write.atomic import atomic_write


@dataclass(frozen=True)
class CutOptions:
    """What is cut: arguments of `prune_darknet`.

    Attributes:
        strategy: normal, regular, extreme, tiny, slim, layers or layers+channels.
        percent: Share of the scales below the threshold; of the blocks for layers.
        floor: Share of each layer's channels that stays; default: the strategy's.
        round_to: Round kept channels up to a multiple, such as 8.
        merge: How scales of one shortcut are joined: union, mean or first.
        blocks: How many residual blocks go.
        absorb: Carry on what removed channels answered constantly.
        recover: More steps on training images, with commas: refit, blocks, distil, batch-norm.
        check: Prove that masked == cut.
    """

    strategy: str = "normal"
    percent: float = 0.5
    floor: float | None = None
    round_to: Annotated[int | None, typer.Option(min=1)] = None
    merge: str | None = None
    blocks: Annotated[int | None, typer.Option(min=1)] = None
    absorb: bool = True
    recover: str | None = None
    check: bool = True


def prune(
    network: NetworkOptions,
    save: Save,
    cutting: CutOptions,
    scenes: Annotated[BatchOptions, Without(data="")],
    place: ComputeOptions,
) -> Answer:
    """Cut channels or blocks, prove that the network computes the same, and write .cfg and .weights.

    With --data, mAP is measured before and after on its part valid, and --recover works on its part train.

    Example: secateur darknet prune runs/sparse --strategy slim --percent 0.5 --data digits --save runs/pruned
    """
    require_other_folder(network.cfg, save)
    model = network.open(place.device)
    steps = [step.strip() for step in (cutting.recover or "").split(",") if step.strip()]
    if steps and not scenes.data:
        raise RequestError("--recover needs images", do="pass --data, such as --data digits")
    pruned = prune_darknet(
        model,
        **{**vars(cutting), "recover": steps},
        image_size=image_side(model, scenes.size),
        data=scenes.of(model, "train") if steps else None,
        seed=place.seed,
    )
    files = save_network(pruned.model, save)
    written = [str(file) for file in files]
    if pruned.plan is not None:
        atomic_write(save / "plan.json", pruned.plan.to_json().encode())
        written.append(str(save / "plan.json"))
    numbers, lines = _numbers(pruned), [str(pruned)]
    if scenes.data:
        before, after = _maps([model, pruned.model], scenes.of(model, "valid"))
        numbers |= {"map50_before": before[0], "map50": after[0], "map_before": before[1], "map": after[1]}
        lines.append(f"mAP@0.5 {before[0]:.4f} -> {after[0]:.4f}, mAP {before[1]:.4f} -> {after[1]:.4f}")
    numbers["written"] = written
    return Answer(numbers, "\n".join([*lines, f"wrote {', '.join(written)}"]))


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
