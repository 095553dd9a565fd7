"""`secateur stream`: cut a checkpoint on the disk by a plan, tensor by tensor."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.app import commands
from secateur.cli.options import AsJson, emit
from secateur.errors import CheckpointError
from secateur.plans.plan import Plan
from secateur.write.checkpoint import load_plan
from secateur.write.stream import stream as stream_checkpoint


@commands("stream")
def stream(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan.json, or a folder that secateur saved.")
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="The uncut checkpoint: a folder of .safetensors files with an index, or one file.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to make; it may not exist.")],
    max_shard_bytes: Annotated[
        int, typer.Option(help="A file takes tensors up to this size together.")
    ] = 5_000_000_000,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of tensors the plan does not know, to leave out; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cut a checkpoint that need not fit into the memory; nothing is run and no model is built.

    Example: secateur stream half/plan.json checkpoints/llama-7b checkpoints/llama-7b-half
    """
    done = stream_checkpoint(_read(plan), source, target, max_shard_bytes=max_shard_bytes, drop=drop or ())
    numbers = {**vars(done), "folder": str(done.folder), "dropped": list(done.dropped)}
    emit(numbers, str(done), as_json=as_json)


def _read(path: Path) -> Plan:
    if path.is_dir():
        return load_plan(path)
    if not path.is_file():
        raise CheckpointError(f"cannot read {path}: no such file", do="name a plan.json or its folder")
    return Plan.from_json(path.read_bytes(), str(path))
