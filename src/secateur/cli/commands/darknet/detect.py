"""`secateur darknet detect`: find things in images, videos, cameras and streams."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import CfgWord, Conf, Iou, Size, Weights, input_of, open_network
from secateur.cli.options import AsJson, Device, Threads, emit, say
from secateur.domains.darknet.detect import Gallery, Thresholds, save_json
from secateur.domains.darknet.detect import detect as run_detect
from secateur.domains.darknet.names import read_names
from secateur.domains.darknet.network import Darknet


@verbs("detect")
def detect(
    cfg: CfgWord,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An image, a folder, a video file, a camera's number, or a stream's address.",
        ),
    ],
    weights: Weights = None,
    names: Annotated[Path | None, typer.Option(help="The .names file; class numbers if absent.")] = None,
    size: Size = None,
    conf: Conf = 0.25,
    iou: Iou = 0.45,
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder for drawn pictures, or the drawn video.")
    ] = None,
    save_json_to: Annotated[
        Path | None, typer.Option("--save-json", help="File for all detections as JSON.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many pictures; a camera goes on for ever.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Find things, draw their boxes with class and score, and write them as JSON.

    Example: secateur darknet detect runs/pruned photo.jpg --conf 0.3 --save drawn --save-json found.json
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model = open_network(cfg, weights, device)
    listed: list[dict[str, Any]] = []
    lines: list[str] = []
    with ExitStack() as stack:
        gallery = stack.enter_context(Gallery(save)) if save else None
        found = run_detect(
            model,
            source,
            _names(model, names),
            Thresholds(conf, iou),
            size=input_of(model, size),
            limit=limit,
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
    if save_json_to is not None:
        written.append(str(save_json(listed, save_json_to)))
    tail = [f"wrote {', '.join(written)}"] if written else []
    emit({"pictures": listed, "written": written}, "\n".join([*lines, *tail]), as_json=as_json)


def _names(model: Darknet, names: Path | None) -> list[str]:
    return read_names(names) if names else [str(number) for number in range(model.heads[0].classes)]
