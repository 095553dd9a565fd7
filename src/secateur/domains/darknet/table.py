"""The table that compares a network's stages: dense, sparse, pruned, fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.costs import latency_in_turn
from secateur.domains.darknet.data import Loader
from secateur.domains.darknet.exporting import save_darknet
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import evaluate_darknet
from secateur.pipeline import measure
from secateur.rich import Table
from secateur.tables import printed

__all__ = ["BATCH", "DarknetStage", "measure_stage", "stage_table", "time_in_turn"]

BATCH = 16
"""Images of the larger of the two timed batches."""


@dataclass(frozen=True)
class DarknetStage:
    """A network at one stage, as files and figures.

    Attributes:
        name: Such as "dense".
        map50: Mean average precision at IoU 0.5, from 0 to 1.
        map: Over IoU 0.5 to 0.95.
        params: Parameters.
        macs: Multiply-accumulates for one image of the input size.
        size_bytes: Bytes of the `.weights` file.
        latency_ms: Milliseconds of one image, one thread; see `time_in_turn`.
        latency_batch_ms: Milliseconds of a batch of 16, one thread.
        cfg: The cfg file.
        weights: The weights file.
    """

    name: str
    map50: float
    map: float
    params: int
    macs: int
    size_bytes: int
    latency_ms: float
    latency_batch_ms: float
    cfg: Path
    weights: Path

    def numbers(self) -> dict[str, Any]:
        """The figures for machines."""
        return {
            "map50": self.map50,
            "map": self.map,
            "params": self.params,
            "macs": self.macs,
            "size_bytes": self.size_bytes,
            "latency_ms": self.latency_ms,
            f"latency_ms_batch{BATCH}": self.latency_batch_ms,
            "cfg": str(self.cfg),
            "weights": str(self.weights),
        }


def time_in_turn(
    models: Sequence[Darknet], size: tuple[int, int], *, rounds: int = 5
) -> list[tuple[float, float]]:
    """Time networks in turn, so that other work on the machine meets all of them alike.

    Args:
        models: The networks.
        size: Height and width of the input in pixels.
        rounds: How often each is timed: ten passes of one image, three of a batch of 16.

    Returns:
        For each network the smallest of its medians in milliseconds: of one image, of the batch.
    """
    batch = models[0].black(size, BATCH)
    single = latency_in_turn(models, batch[:1], rounds=rounds)
    many = latency_in_turn(models, batch, rounds=rounds, repeats=3, warmup=1)
    return [(one.median_ms, batched.median_ms) for one, batched in zip(single, many, strict=True)]


def measure_stage(name: str, model: Darknet, loader: Loader, folder: Path) -> DarknetStage:
    """Write a network as `<folder>/<name>.cfg` and `.weights`, and measure it.

    Args:
        name: The stage's name.
        model: The network; not changed.
        loader: Batches of the validation images, not augmented.
        folder: Where to write.

    Returns:
        Its figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cfg, weights = save_darknet(model, folder / name)
    found = evaluate_darknet(model, loader)
    cost = measure(model, model.black(loader.size))
    ((one, many),) = time_in_turn([model], loader.size, rounds=2)
    return DarknetStage(
        name=name,
        map50=found.map50,
        map=found.map,
        params=cost.params,
        macs=cost.macs,
        size_bytes=weights.stat().st_size,
        latency_ms=one,
        latency_batch_ms=many,
        cfg=cfg,
        weights=weights,
    )


def stage_table(stages: Sequence[DarknetStage]) -> str:
    """Show stages one below the other; shares are of the first.

    Args:
        stages: At least one.

    Returns:
        Text of at most 110 columns.

    Example:
        >>> files = Path("d.cfg"), Path("d")
        >>> stage = DarknetStage("dense", 0.9, 0.5, 100, 2_500_000, 420_000, 1.5, 16.0, *files)
        >>> print(stage_table([stage]).splitlines()[3])
        │ dense │  0.9000 │ 0.5000 │ 100 (100 %) │ 2.5 M (100 %) │ 0.42 MB (100 %) │ 1.50 │      16.0 │
    """
    table = Table("", title_justify="left")
    for head in ("mAP@0.5", "mAP", "parameters", "MACs", "weights", "ms", f"ms for {BATCH}"):
        table.add_column(head, justify="right")
    first = stages[0]
    for stage in stages:
        shares = {
            key: f"({100 * getattr(stage, key) / getattr(first, key):.0f} %)"
            for key in ("params", "macs", "size_bytes")
        }
        table.add_row(
            stage.name,
            f"{stage.map50:.4f}",
            f"{stage.map:.4f}",
            f"{stage.params:,} {shares['params']}",
            f"{stage.macs / 1e6:.1f} M {shares['macs']}",
            f"{stage.size_bytes / 1e6:.2f} MB {shares['size_bytes']}",
            f"{stage.latency_ms:.2f}",
            f"{stage.latency_batch_ms:.1f}",
        )
    return printed(table)
