"""Cut a checkpoint file by file, tensor by tensor, without the model: for those larger than the memory.

A plan holds everything that a cut needs but the values. Each tensor is mapped into memory, sliced and written
before the next one is looked at, so the peak is one tensor, whole and cut, whatever the checkpoint's size.
"""

import contextlib
import fnmatch
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from secateur.cut.slicing import slice_tensor
from secateur.errors import CheckpointError, RequestError, prefix_hint
from secateur.plans.plan import Plan
from secateur.rich import BarColumn, Console, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from secateur.write.atomic import atomic_folder, atomic_write
from secateur.write.checkpoint import PLAN
from secateur.write.digests import VALUES
from secateur.write.experts import joined_experts
from secateur.write.shards import INDEX, SINGLE, Shards, StoredTensor, open_shards, write_shard


@dataclass(frozen=True)
class Streamed:
    """What `stream` wrote.

    Attributes:
        folder: Where it lies.
        files: How many files hold the tensors.
        tensors: How many tensors were written.
        sliced: How many of them shrank.
        before_bytes: Bytes of all tensors of the source.
        after_bytes: Bytes of all tensors written.
        dropped: Tensors of the source that were left out: those of blocks that the plan drops, and as asked.
    """

    folder: Path
    files: int
    tensors: int
    sliced: int
    before_bytes: int
    after_bytes: int
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = self.after_bytes / max(self.before_bytes, 1)
        dropped = f"; left out {len(self.dropped)} tensors" if self.dropped else ""
        return (
            f"wrote {self.folder}: {self.tensors} tensors in {self.files} files, {self.sliced} sliced; "
            f"{self.after_bytes:,} of {self.before_bytes:,} bytes ({left:.1%}){dropped}"
        )


def stream(
    plan: Plan,
    source: Path | str,
    target: Path | str,
    *,
    max_shard_bytes: int = 5_000_000_000,
    drop: Sequence[str] = (),
) -> Streamed:
    """Cut a checkpoint on the disk by a plan, tensor by tensor.

    Tensors that the plan does not cut are copied bit by bit. The new folder holds the plan beside its
    weights: `secateur.load` reads it, and so does everything that reads the layout of transformers.

    Args:
        plan: What to keep.
        source: The checkpoint of the uncut architecture: a folder with `model.safetensors.index.json` and its
            files, or one `.safetensors` file. Experts that have a tensor each there, and one together in the
            architecture, are joined.
        target: The folder to make; it may not exist, and appears when it is complete.
        max_shard_bytes: A file takes tensors up to this size together; a larger tensor gets its own.
        drop: Patterns of names of the source that are left out, such as leftovers of an older architecture.

    Returns:
        What was written.

    Raises:
        CheckpointError: The source is damaged, or does not fit the plan: a tensor is missing, unknown, or has
            another shape.
        RequestError: The size is not positive, or a pattern fits nothing or a tensor of the architecture.
        SecateurError: The target exists or cannot be written; nothing is left of it then.

    Example:
        >>> import tempfile, torch, secateur as sc
        >>> from safetensors.torch import save_file
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> plan = sc.prune(model, torch.zeros(1, 4), ratio=0.5).plan
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file(model.state_dict(), f"{folder}/model.safetensors")
        ...     done = sc.stream(plan, f"{folder}/model.safetensors", f"{folder}/half")
        ...     done.after_bytes, sc.load(f"{folder}/half", model)[0]
        (120, Linear(in_features=4, out_features=4, bias=True))
    """
    if max_shard_bytes < 1:
        raise RequestError(f"max_shard_bytes is {max_shard_bytes}", do="pass a number of bytes above 0")
    shards = joined_experts(open_shards(source), plan.first.shapes)
    foreign = _foreign(plan, shards, drop)
    _require_fit(plan, shards, foreign)
    source_of = _sources(plan, [name for name in shards if name not in foreign])
    before = {plan.renamed(name) or name: name for name in source_of}
    tensors = [_after(plan, name, after, shards.stored[source_of[name]]) for after, name in before.items()]
    layout = pack(tensors, max_shard_bytes)
    names = _file_names(len(layout))
    text = plan.to_json().encode()
    metadata = {"format": "pt", "secateur_plan": hashlib.sha256(text).hexdigest()}
    with atomic_folder(target) as folder, _bar(sum(one.size_bytes for one in tensors)) as advance:

        def value(name: str) -> Tensor:
            tensor = _cut(plan, before[name], shards[source_of[before[name]]])
            advance(tensor.numel() * tensor.element_size())
            return tensor

        values = {
            name: write_shard(folder / name, held, value, metadata)
            for name, held in zip(names, layout, strict=True)
        }
        if len(names) > 1:
            atomic_write(folder / INDEX, _index(layout, values))
        atomic_write(folder / PLAN, text)
    return Streamed(
        folder=Path(target),
        files=len(names),
        tensors=len(tensors),
        sliced=sum(one.shape != shards.stored[source_of[before[one.name]]].shape for one in tensors),
        before_bytes=sum(one.size_bytes for one in shards.stored.values()),
        after_bytes=sum(one.size_bytes for one in tensors),
        dropped=tuple(sorted(set(shards) - set(source_of.values()))),
    )


def _sources(plan: Plan, stored: Sequence[str]) -> dict[str, str]:
    """By the name in the uncut architecture of each tensor to write, the name it is stored under.

    They differ only where a tied tensor is stored under the name that it has in a dropped block.
    """
    source_of = {name: name for name in stored if not plan.drops(name)}
    first = plan.first
    names: dict[str, list[str]] = {}
    for name, canonical in first.ties.items():
        names.setdefault(canonical, [canonical]).append(name)
    for name in stored:
        kept = [other for other in names.get(first.ties.get(name, name), ()) if not plan.drops(other)]
        if kept and not any(other in source_of for other in kept):
            source_of[kept[0]] = name
    return source_of


def _cut(plan: Plan, name: str, tensor: Tensor) -> Tensor:
    """Take what stays of a tensor."""
    masks = plan.masks(name)
    return tensor if all(mask.all() for mask in masks) else slice_tensor(tensor, masks)


def _after(plan: Plan, name: str, after: str, stored: StoredTensor) -> StoredTensor:
    return replace(stored, name=after, shape=tuple(int(mask.sum()) for mask in plan.masks(name)))


def pack(tensors: Sequence[StoredTensor], max_shard_bytes: int) -> list[list[StoredTensor]]:
    """Share tensors out to files, in their order, each file up to a size or of one tensor.

    Within a file larger elements come first, so that all lie at multiples of their size.

    Example:
        >>> parts = ("a", "F32", (2,)), ("b", "U8", (4,)), ("c", "F32", (9,))
        >>> [[one.name for one in file] for file in pack([StoredTensor(*part) for part in parts], 12)]
        [['a', 'b'], ['c']]
    """
    layout: list[list[StoredTensor]] = [[]]
    held_bytes = 0
    for tensor in tensors:
        if layout[-1] and held_bytes + tensor.size_bytes > max_shard_bytes:
            layout.append([])
            held_bytes = 0
        layout[-1].append(tensor)
        held_bytes += tensor.size_bytes
    return [sorted(held, key=lambda one: -one.item_bytes) for held in layout]


def _file_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _index(layout: Sequence[Sequence[StoredTensor]], values: Mapping[str, str]) -> bytes:
    """What lies where, and the digest of each file, by which files of another model are told apart."""
    placed = {one.name: name for name, held in zip(values, layout, strict=True) for one in held}
    total = sum(one.size_bytes for held in layout for one in held)
    told = {"total_size": total, VALUES: dict(values)}
    content = {"metadata": told, "weight_map": dict(sorted(placed.items()))}
    return (json.dumps(content, indent=2) + "\n").encode()


def _foreign(plan: Plan, shards: Shards, patterns: Sequence[str]) -> set[str]:
    """The tensors of the source that the plan does not know, and that are left out as asked."""
    foreign: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {name for name in shards if fnmatch.fnmatchcase(name, pattern)}
        own = sorted(hits & plan.first.shapes.keys() - set(plan.first.unsaved))
        if own or not hits:
            what = f"names {own[0]}, which {plan.model} needs" if own else "fits no tensor of the checkpoint"
            raise RequestError(f"drop pattern '{pattern}' {what}", do="name only what the plan does not know")
        foreign |= hits
    return foreign


def _require_fit(plan: Plan, shards: Shards, left_out: set[str]) -> None:
    """Refuse a checkpoint with other tensors than those of the architecture that the plan is for."""
    first = plan.first
    present = {first.ties.get(name, name) for name in shards}
    optional = {name for name in first.shapes if first.ties.get(name, name) in present} | set(first.unsaved)
    wrong = [
        f"{name} is {list(stored.shape)}, the plan expects {list(first.shapes[name])}"
        for name, stored in shards.stored.items()
        if name in first.shapes and tuple(first.shapes[name]) != stored.shape
    ]
    missing = [f"{name} is missing" for name in first.shapes if name not in optional]
    saved = first.shapes.keys() - set(first.unsaved)
    foreign = [name for name in shards if name not in saved and name not in left_out]
    unknown = [f"{name} is in the checkpoint, the plan knows no such tensor" for name in foreign]
    differences = [*wrong, *missing, *unknown]
    if not differences:
        return
    do = "build the plan from the class that the checkpoint was saved from"
    if not wrong and not missing:
        do = f"if they are not needed, leave them out with drop, such as drop=['{foreign[0]}']"
    raise CheckpointError(
        f"cannot stream {shards.path}: it does not fit the plan for {first.model}",
        [
            f"{len(missing)} missing, {len(unknown)} unknown, {len(wrong)} of another shape",
            *differences[:5],
            *(["..."] if len(differences) > 5 else []),
            *prefix_hint(first.shapes, shards, "the plan"),
        ],
        do,
    )


@contextlib.contextmanager
def _bar(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar over bytes on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("cutting", total=total_bytes)
        yield lambda size_bytes: progress.advance(task, size_bytes)
