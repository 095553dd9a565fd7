"""`secateur darknet detect`: find things in images, videos, cameras and streams."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from secateur.cli.darknet import NetworkOptions, input_of
from secateur.cli.flatten import Without
from secateur.cli.options import MachineOptions
from secateur.cli.terminal import Answer, say
from secateur.domains.darknet.detect import Gallery, Thresholds, save_json
from secateur.domains.darknet.detect import detect as run_detect
from secateur.domains.darknet.names import read_names
from secateur.domains.darknet.network import Darknet


@dataclass(frozen=True)
class DetectOptions:
    """How closely it is looked.

    Attributes:
        size: Input in pixels, such as 416 or 320x416 (height x width); default: the cfg's.
        conf: Smallest confidence, from 0 to 1.
        iou: Overlap above which the less confident box of a class is dropped.
    """

    size: str | None = None
    conf: float = 0.25
    iou: float = 0.45


@dataclass(frozen=True)
class DetectOutputOptions:
    """What becomes of what is found.

    Attributes:
        names: The .names file; default: class numbers.
        save: Folder for drawn pictures, or the drawn video.
        save_json: File for all detections as JSON.
        limit: Stop after this many pictures; a camera goes on for ever.
    """

    names: Path | None = None
    save: Path | None = None
    save_json: Path | None = None
    limit: Annotated[int | None, typer.Option(min=1)] = None


def detect(
    network: NetworkOptions,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An image, a folder, a video file, a camera's number, or a stream's address.",
        ),
    ],
    looking: DetectOptions,
    output: DetectOutputOptions,
    place: Annotated[MachineOptions, Without("seed")],
) -> Answer:
    """Find things, draw their boxes with class and score, and write them as JSON.

    Example: secateur darknet detect runs/pruned photo.jpg --conf 0.3 --save drawn --save-json found.json
    """
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    model = network.open(place.device)
    listed: list[dict[str, Any]] = []
    lines: list[str] = []
    with ExitStack() as stack:
        gallery = stack.enter_context(Gallery(output.save)) if output.save else None
        found = run_detect(
            model,
            source,
            _names(model, output.names),
            Thresholds(looking.conf, looking.iou),
            size=input_of(model, looking.size),
            limit=output.limit,
        )
        try:
            for detected in found:
                listed.append(detected.numbers())
                lines.append(str(detected))
                if gallery is not None:
                    gallery.add(detected)
        except KeyboardInterrupt:
            say(f"stopped after {len(listed)} pictures")
    written = [str(path) for path in gallery.written] if gallery is not None else []
    if output.save_json is not None:
        written.append(str(save_json(listed, output.save_json)))
    tail = [f"wrote {', '.join(written)}"] if written else []
    return Answer({"pictures": listed, "written": written}, "\n".join([*lines, *tail]))


def _names(model: Darknet, names: Path | None) -> list[str]:
    return read_names(names) if names else [str(number) for number in range(model.heads[0].classes)]
