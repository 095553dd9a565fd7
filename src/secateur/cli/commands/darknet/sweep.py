"""`secateur darknet sweep`: mAP against percent, and where the cliff is."""

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from secateur.cli.darknet import BatchOptions, NetworkOptions
from secateur.cli.options import MachineOptions, Save, numbers_of, require_other_folder
from secateur.cli.terminal import Answer, say
from secateur.domains.darknet.evaluate import DetectionFigures
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.domains.darknet.sweep import PERCENTS
from secateur.domains.darknet.sweep import sweep as run_sweep


@dataclass(frozen=True)
class PercentOptions:
    """What is tried.

    Attributes:
        strategy: normal, regular, extreme, tiny, slim, layers or layers+channels.
        percents: What to try, with commas.
        refine: How many times the cliff's gap is halved.
        tolerance: Share of the dense mAP that may go before it counts as a cliff.
    """

    strategy: str = "normal"
    percents: str = ",".join(map(str, PERCENTS))
    refine: Annotated[int, typer.Option(min=0)] = 2
    tolerance: float = 0.1


def sweep(
    network: NetworkOptions, save: Save, tried: PercentOptions, scenes: BatchOptions, place: MachineOptions
) -> Answer:
    """Prune to growing percents, measure mAP without fine-tuning, find the cliff, and plot it.

    A sweep that was stopped goes on: every row is in SAVE/sweep.jsonl as soon as it is known.

    Example: secateur darknet sweep runs/sparse --strategy slim --data digits --save runs/sweep
    """
    require_other_folder(network.cfg, save)
    model = network.open(place.device)
    percents = numbers_of("--percents", tried.percents, float, "0.3,0.5,0.7")
    batches = scenes.of(model, "valid")

    def evaluate(pruned: Darknet) -> DetectionFigures:
        return evaluate_darknet(pruned, batches, threads=place.threads)

    save.mkdir(parents=True, exist_ok=True)
    found = run_sweep(
        model,
        evaluate,
        tried.strategy,
        percents,
        rows=save / "sweep.jsonl",
        tolerance=tried.tolerance,
        refine=tried.refine,
        on_row=lambda row: say(f"{row.percent:.1%}: mAP@0.5 {row.score:.4f}, {row.params:,} parameters"),
        seed=place.seed,
    )
    picture = found.plot(save / "sweep.png")
    cliff = found.cliff
    numbers = {
        "strategy": found.strategy,
        "rows": [asdict(row) for row in found.rows],
        "cliff": [row.percent for row in cliff] if cliff else None,
        "written": [str(save / "sweep.jsonl"), str(picture)],
    }
    return Answer(numbers, f"{found}\nwrote {save / 'sweep.jsonl'} and {picture}")
