"""`secateur sweep`: how sensitive a classifier is to its layers, channels and blocks."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    DataDir,
    DataName,
    Device,
    Download,
    ModelArguments,
    ModelWord,
    Save,
    Seed,
    Threads,
    data_arguments,
    emit,
    load_data,
    model_arguments,
    open_placed,
    require_other_folder,
    say,
)
from secateur.domains.classification import Splits
from secateur.domains.classification.images import labelled
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
from secateur.train.classifier import make_fabric, surroundings


@commands("sweep")
def sweep(
    model: ModelWord,
    save: Save,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Sweep its channels: a convolution, such as layer4.1.conv2.")
    ] = None,
    counts: Annotated[
        str | None, typer.Option("--counts", help="How many to zero, with commas; 1,3,5 of itself.")
    ] = None,
    maps: Annotated[
        int | None,
        typer.Option(
            min=0, help="Draw the mean feature maps of so many channels of --layer; 64 if it makes maps."
        ),
    ] = None,
    ratios: Annotated[
        str | None, typer.Option(help="Sweep every layer or group by shares, with commas, such as 0.25,0.5.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="What --ratios sweeps: layers, groups (all coupled layers), or layers,groups.")
    ] = "layers",
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Zero the last convolution of each residual block.")
    ] = False,
    criterion: Annotated[
        str, typer.Option(help="What orders the channels; the least go first.")
    ] = "activation-mean",
    where: Annotated[
        str, typer.Option(help="removed: after the norm, as a cut does; output: what the layer returns.")
    ] = "removed",
    score_images: Annotated[
        int, typer.Option(min=0, help="Training images to score by; 0 takes the test images.")
    ] = 1024,
    data: DataName = "digits",
    arg: ModelArguments = None,
    data_dir: DataDir = None,
    download: Download = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    memory_mb: Annotated[
        int, typer.Option(min=0, help="Activations kept in memory, in MB; the rest goes to disk.")
    ] = 1024,
    engine: Annotated[
        str, typer.Option(help="local, or ray: over a Ray cluster, as RAY_ADDRESS says or on this machine.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of --engine ray; one for each CPU if not given.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Zero channels, layers or blocks by masks, and plot what accuracy is left.

    A sweep that was stopped goes on: every row is in a .jsonl file in SAVE as soon as it is known.

    Example: secateur sweep runs/dense --layer layer4.1.conv2 --counts 1,3,5,7 --data digits --save runs/sweep
    """
    require_other_folder(model, save)
    if layer is None and ratios is None and not blocks:
        raise RequestError("nothing to sweep was named", do="pass --layer, --ratios or --blocks")
    numbers = [int(number) for number in _numbers("--counts", counts or "1,3,5", int)]
    shares = None if ratios is None else _numbers("--ratios", ratios, float)
    kinds = _kinds(by)
    if layer is None and (counts is not None or maps is not None):
        raise RequestError("--counts and --maps are for --layer, which was not given", do="pass --layer NAME")
    if ratios is None and by != "layers":
        raise RequestError("--by is for --ratios, which was not given", do="pass --ratios, such as 0.25,0.5")
    if engine not in ("local", "ray"):
        raise RequestError(f"--engine is '{engine}'", do="choose one of local, ray")
    if workers is not None and engine == "local":
        raise RequestError("--workers is for --engine ray", do="add --engine ray, or leave --workers out")
    parts = load_data(data, data_dir, download, seed)
    opened = open_placed(model, data_arguments(parts, model, model_arguments(arg)), seed, device)
    save.mkdir(parents=True, exist_ok=True)
    with surroundings(make_fabric(device, "32-true"), threads):
        forks = Forks(
            opened.model,
            parts.test,
            batch_size=batch_size,
            fork_size=8 * batch_size,
            device=device,
            memory_bytes=memory_mb * 10**6,
            folder=save,
        )
        scored = labelled(parts.train, score_images, seed) if score_images else None
        asked = {"criterion": criterion, "data": scored, "seed": seed}
        works = RayEngine(workers, device=device) if engine == "ray" else LocalEngine()
        session = _Session(opened.model, parts, save, forks, where, works)
        try:
            if layer is not None:
                session.channels(layer, numbers, maps, asked)
            for kind in kinds if shares is not None else ():
                session.curves(shares or [], kind, asked)
            if blocks:
                session.blocks()
        finally:
            works.close()
            forks.close()
    session.told["written"] = [str(path) for path in session.written]
    wrote = f"wrote {', '.join(session.told['written'])}"
    emit(session.told, "\n".join([*session.lines, wrote]), as_json=as_json)


class _Session:
    """The sweeps of one command, which share the model and the images."""

    def __init__(
        self, model: Any, parts: Splits, save: Path, forks: Forks, where: str, engine: Engine
    ) -> None:
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
            on_row=lambda row: say(f"{row.count} channels: {100 * row.accuracy:.2f} % right"),
            forks=self.forks,
            engine=self.engine,
            **asked,
        )
        rows = [asdict(row) for row in found.rows]
        for row in rows:
            names = self.parts.spec.class_names
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
            on_point=lambda point: say(f"{point.layer} at {point.ratio:g}: {100 * point.value:.2f} % right"),
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
            on_row=lambda row: say(f"without {row.layer}: {100 * row.accuracy:.2f} % right"),
            forks=self.forks,
            engine=self.engine,
        )
        self.told["blocks"] = {"accuracy": found.accuracy, "rows": list(map(asdict, found.rows))}
        self.lines.append(str(found))
        self.written += [self.save / "blocks.jsonl", found.plot(self.save / "blocks.png")]


def _kinds(text: str) -> list[str]:
    kinds = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not kinds or not set(kinds) <= set(BY):
        raise RequestError(f"--by is '{text}'", do="write layers, groups, or both with a comma")
    return kinds


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> list[float]:
    try:
        return [kind(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        example = "1,3,5" if kind is int else "0.25,0.5"
        raise RequestError(
            f"{option} is '{text}'", do=f"write numbers with commas, such as {example}"
        ) from error
