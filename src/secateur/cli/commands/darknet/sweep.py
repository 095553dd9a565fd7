"""`secateur darknet sweep`: mAP against percent, and where the cliff is."""

from dataclasses import asdict
from typing import Annotated

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
    input_of,
    open_network,
    plain_batches,
)
from secateur.cli.options import AsJson, Device, Save, Seed, Threads, emit, require_other_folder, say
from secateur.domains.darknet.evaluate import Evaluation
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.domains.darknet.sweep import PERCENTS
from secateur.domains.darknet.sweep import sweep as run_sweep
from secateur.errors import RequestError


@verbs("sweep")
def sweep(
    cfg: CfgWord,
    save: Save,
    weights: Weights = None,
    strategy: Strategy = "normal",
    percents: Annotated[str, typer.Option(help="What to try, with commas.")] = ",".join(map(str, PERCENTS)),
    refine: Annotated[int, typer.Option(min=0, help="How many times the cliff's gap is halved.")] = 2,
    tolerance: Annotated[
        float, typer.Option(help="Share of the dense mAP that may go before it counts as a cliff.")
    ] = 0.1,
    data: DataWord = "digits",
    format: Format = "yolo",
    images: Images = "1000,250",
    batch_size: BatchSize = 16,
    size: Size = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Prune to growing percents, measure mAP without fine-tuning, find the cliff, and plot it.

    A sweep that was stopped goes on: every row is in SAVE/sweep.jsonl as soon as it is known.

    Example: secateur darknet sweep runs/sparse --strategy slim --data digits --save runs/sweep
    """
    require_other_folder(cfg, save)
    model = open_network(cfg, weights, device)
    batches = plain_batches(DataWords(data, format, images, seed), "valid", input_of(model, size), batch_size)

    def evaluate(network: Darknet) -> Evaluation:
        return evaluate_darknet(network, batches, threads=threads)

    save.mkdir(parents=True, exist_ok=True)
    found = run_sweep(
        model,
        evaluate,
        strategy,
        _shares(percents),
        rows=save / "sweep.jsonl",
        tolerance=tolerance,
        refine=refine,
        on_row=lambda row: say(f"{row.percent:.1%}: mAP@0.5 {row.score:.4f}, {row.params:,} parameters"),
        seed=seed,
    )
    picture = found.plot(save / "sweep.png")
    cliff = found.cliff
    numbers = {
        "strategy": found.strategy,
        "rows": [asdict(row) for row in found.rows],
        "cliff": [row.percent for row in cliff] if cliff else None,
        "written": [str(save / "sweep.jsonl"), str(picture)],
    }
    emit(numbers, f"{found}\nwrote {save / 'sweep.jsonl'} and {picture}", as_json=as_json)


def _shares(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        do = "write shares with commas, such as 0.3,0.5,0.7"
        raise RequestError(f"--percents is '{text}'", do=do) from error
