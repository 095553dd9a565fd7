"""`secateur sweep`: how sensitive a network is to its layers, channels and blocks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.data import DataOptions, open_fitting
from secateur.cli.options import MachineOptions, ModelOptions, Save, numbers_of, require_other_folder
from secateur.cli.terminal import Answer, say
from secateur.errors import RequestError
from secateur.sweep import (
    Engine,
    Forks,
    LocalEngine,
    RayEngine,
    block_sweep,
    channel_sweep,
    feature_maps,
    sensitivity,
)
from secateur.sweep.curves import BY
from secateur.sweep.maps import has_maps
from secateur.train import Work
from secateur.train.device import make_fabric, surroundings
from secateur.write.rows import flat


@dataclass(frozen=True)
class SweepOptions:
    """What is zeroed.

    Attributes:
        layer: Sweep its channels: a convolution, such as layer4.1.conv2.
        counts: How many to zero, with commas; default: 1,3,5.
        maps: Draw the mean feature maps of so many channels of --layer; default: 64 if it makes maps.
        ratios: Sweep every layer or group by shares, with commas, such as 0.25,0.5.
        by: What --ratios sweeps: layers, groups (all coupled layers), or layers,groups.
        blocks: Zero the last convolution of each residual block.
        criterion: What orders the channels; the least go first.
        where: removed: after the norm, as a cut does; output: what the layer returns.
        score_images: Training images to score by; 0 takes the test images.
    """

    layer: str | None = None
    counts: str | None = None
    maps: Annotated[int | None, typer.Option(min=0)] = None
    ratios: str | None = None
    by: str = "layers"
    blocks: bool = False
    criterion: str = "activation-mean"
    where: str = "removed"
    score_images: Annotated[int, typer.Option(min=0)] = 1024

    def __post_init__(self) -> None:
        if self.layer is None and self.ratios is None and not self.blocks:
            raise RequestError("nothing to sweep was named", do="pass --layer, --ratios or --blocks")
        if self.layer is None and (self.counts is not None or self.maps is not None):
            what = "--counts and --maps are for --layer, which was not given"
            raise RequestError(what, do="pass --layer NAME")
        if not self._kinds() or not set(self._kinds()) <= set(BY):
            raise RequestError(f"--by is '{self.by}'", do="write layers, groups, or both with a comma")
        if self.ratios is None and self.by != "layers":
            what = "--by is for --ratios, which was not given"
            raise RequestError(what, do="pass --ratios, such as 0.25,0.5")

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(word.strip() for word in self.by.split(",") if word.strip()))

    def kinds(self) -> list[str]:
        """What the shares are of."""
        return self._kinds() if self.ratios is not None else []


@dataclass(frozen=True)
class EngineOptions:
    """How the work is done.

    Attributes:
        batch_size: Images per batch.
        memory_mb: Activations kept in memory, in MB; the rest goes to disk.
        engine: local, or ray: over a Ray cluster, as RAY_ADDRESS says or on this machine.
        workers: Workers of --engine ray; default: one for each CPU.
    """

    batch_size: Annotated[int, typer.Option(min=1)] = 64
    memory_mb: Annotated[int, typer.Option(min=0)] = 1024
    engine: str = "local"
    workers: Annotated[int | None, typer.Option(min=1)] = None

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise RequestError(f"--engine is '{self.engine}'", do="choose one of local, ray")
        if self.workers is not None and self.engine == "local":
            raise RequestError("--workers is for --engine ray", do="add --engine ray, or leave --workers out")


def sweep(
    model: ModelOptions,
    save: Save,
    sweeps: SweepOptions,
    data: DataOptions,
    means: EngineOptions,
    place: MachineOptions,
) -> Answer:
    """Zero channels, layers or blocks by masks, and plot what accuracy is left.

    A sweep that was stopped goes on: every row is in a .jsonl file in SAVE as soon as it is known.

    Example: secateur sweep runs/dense --layer layer4.1.conv2 --counts 1,3,5,7 --data digits --save runs/sweep
    """
    require_other_folder(model.model, save)
    counts = numbers_of("--counts", sweeps.counts or "1,3,5", int, "1,3,5")
    shares = numbers_of("--ratios", sweeps.ratios or "", float, "0.25,0.5")
    kinds = sweeps.kinds()
    parts = data.open(place.seed)
    opened = open_fitting(model, parts, place.seed, place.device)
    save.mkdir(parents=True, exist_ok=True)
    with surroundings(make_fabric(place.device, "32-true"), place.threads):
        forks = Forks(
            opened.model,
            parts.test,
            batch_size=means.batch_size,
            fork_size=8 * means.batch_size,
            device=place.device,
            memory_bytes=means.memory_mb * 10**6,
            folder=save,
            task=parts.task,
        )
        scored = parts.evidence(sweeps.score_images, place.seed) if sweeps.score_images else None
        chosen = parts.criterion(opened.model, sweeps.criterion)
        asked = {"criterion": chosen, "data": scored, "seed": place.seed}
        engine = RayEngine(means.workers, device=place.device) if means.engine == "ray" else LocalEngine()
        session = _SweepRun(opened.model, parts, save, forks, sweeps.where, engine)
        try:
            if sweeps.layer is not None:
                session.channels(sweeps.layer, counts, sweeps.maps, asked)
            for kind in kinds:
                session.curves(shares, kind, asked)
            if sweeps.blocks:
                session.blocks()
        finally:
            engine.close()
            forks.close()
    session.told["written"] = [str(path) for path in session.written]
    wrote = f"wrote {', '.join(session.told['written'])}"
    return Answer(session.told, "\n".join([*session.lines, wrote]))


class _SweepRun:
    """The sweeps of one command, which share the model and the images."""

    def __init__(self, model: Any, parts: Work, save: Path, forks: Forks, where: str, engine: Engine) -> None:
        self.model = model
        self.parts = parts
        self.save = save
        self.forks = forks
        self.where = where
        self.engine = engine
        self.told: dict[str, Any] = {}
        self.lines: list[str] = []
        self.written: list[Path] = []

    def channels(self, layer: str, counts: list[int], maps: int | None, asked: dict[str, Any]) -> None:
        """Sweep the channels of a layer, and draw its maps."""
        makes_maps = has_maps(self.forks, self.forks.find(layer, self.where))
        if maps and not makes_maps:
            raise RequestError(
                f"--maps is {maps}, layer {layer} makes no maps",
                do="leave --maps out, or choose a convolution",
            )
        found = channel_sweep(
            self.model,
            layer,
            self.parts.test,
            counts,
            where=self.where,
            rows=self.save / "sweep.jsonl",
            on_row=lambda row: say(f"{row.count} channels: {_told(row.figures)}"),
            forks=self.forks,
            engine=self.engine,
            **asked,
        )
        rows = [flat(asdict(row)) for row in found.rows]
        for row in rows:
            if row["per_class_accuracy"]:
                names = self.parts.class_names
                row["per_class_accuracy"] = dict(zip(names, row["per_class_accuracy"], strict=True))
        self.told |= {"layer": layer, "where": self.where, "criterion": found.criterion}
        self.told |= {"scores": found.scores.tolist(), "rows": rows}
        self.lines.append(str(found))
        self.written += [self.save / "sweep.jsonl", found.plot(self.save / "sweep.png")]
        if maps is None and not makes_maps:
            self.lines.append(f"no feature maps: layer {layer} makes none")
        elif maps != 0:
            shown = feature_maps(self.model, layer, self.parts.test, count=maps or 64, forks=self.forks)
            self.told["most_active"] = list(shown.channels)
            self.lines.append(str(shown))
            self.written.append(shown.plot(self.save / "maps.png"))

    def curves(self, ratios: list[float], by: str, asked: dict[str, Any]) -> None:
        """Sweep every layer or group."""
        name = "curves" if by == "layers" else by
        found = sensitivity(
            self.model,
            self.parts.test,
            ratios,
            where=self.where,
            rows=self.save / f"{name}.jsonl",
            on_point=lambda point: say(f"{point.layer} at {point.ratio:g}: {point.value:.4f}"),
            forks=self.forks,
            engine=self.engine,
            by=by,
            **asked,
        )
        self.told[by] = {of: list(map(asdict, points)) for of, points in found.by_layer.items()}
        self.told["skipped"] = {**self.told.get("skipped", {}), **found.skipped}
        self.lines.append(str(found))
        self.written += [self.save / f"{name}.jsonl", found.plot(self.save / f"{name}.png")]

    def blocks(self) -> None:
        """Silence every residual block in turn."""
        found = block_sweep(
            self.model,
            self.parts.test,
            where=self.where,
            rows=self.save / "blocks.jsonl",
            on_row=lambda row: say(f"without {row.layer}: {_told(row.figures)}"),
            forks=self.forks,
            engine=self.engine,
        )
        rows = [flat(asdict(row)) for row in found.rows]
        self.told["blocks"] = {found.figure: found.value, "rows": rows}
        self.lines.append(str(found))
        self.written += [self.save / "blocks.jsonl", found.plot(self.save / "blocks.png")]


def _told(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
