"""`secateur stream`: cut a checkpoint on the disk by a plan, tensor by tensor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import Answer
from secateur.errors import CheckpointError
from secateur.plans.plan import Plan
from secateur.write.checkpoint import load_plan
from secateur.write.stream import stream as stream_checkpoint


@dataclass(frozen=True)
class StreamFileOptions:
    """What is read and written.

    Attributes:
        plan: A plan.json, or a folder that secateur saved.
        source: The uncut checkpoint: a folder of .safetensors files with an index, or one file.
        target: Folder to make; it may not exist.
    """

    plan: Annotated[Path, typer.Argument(metavar="PLAN")]
    source: Annotated[Path, typer.Argument(metavar="SOURCE")]
    target: Annotated[Path, typer.Argument(metavar="TARGET")]


@dataclass(frozen=True)
class ShardOptions:
    """How it is written.

    Attributes:
        max_shard_bytes: A file takes tensors up to this size together.
        drop: Pattern of tensors the plan does not know, to leave out; may be repeated.
    """

    max_shard_bytes: int = 5_000_000_000
    drop: tuple[str, ...] = ()


def stream(files: StreamFileOptions, sharding: ShardOptions) -> Answer:
    """Cut a checkpoint that need not fit into the memory; nothing is run and no model is built.

    Example: secateur stream half/plan.json checkpoints/llama-7b checkpoints/llama-7b-half
    """
    done = stream_checkpoint(
        _read(files.plan),
        files.source,
        files.target,
        max_shard_bytes=sharding.max_shard_bytes,
        drop=sharding.drop,
    )
    numbers = {**vars(done), "folder": str(done.folder), "dropped": list(done.dropped)}
    return Answer(numbers, str(done))


def _read(path: Path) -> Plan:
    if path.is_dir():
        return load_plan(path)
    if not path.is_file():
        raise CheckpointError(f"cannot read {path}: no such file", do="name a plan.json or its folder")
    return Plan.from_json(path.read_bytes(), str(path))
